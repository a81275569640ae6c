package health

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// checkTime is how long one check may take.
const checkTime = 5 * time.Second

// Set is the list of checks of one service. Safe for concurrent use.
type Set struct {
	service, version string
	started          time.Time

	mu     sync.Mutex // guards all below
	checks []Check
	since  map[string]time.Time // when a code was first found bad
	ready  bool
	drain  bool
	extra  func() map[string]any
	state  func() string
	watch  []chan struct{}

	run sync.Mutex // one run at a time
}

// New returns an empty set.
func New(service, version string) *Set {
	return &Set{service: service, version: version, started: time.Now(), since: map[string]time.Time{}}
}

// Service returns the service's name.
func (s *Set) Service() string { return s.service }

// Add adds checks. A code that is there already, or a dependency nobody has, is a mistake of the programmer and
// comes as an error from Validate.
func (s *Set) Add(checks ...Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, checks...)
}

// Extra adds the service's own part to the status document.
func (s *Set) Extra(fn func() map[string]any) { s.mu.Lock(); s.extra = fn; s.mu.Unlock() }

// State lets the service name its own state: "sealed". Empty means: as the findings say.
func (s *Set) State(fn func() string) { s.mu.Lock(); s.state = fn; s.mu.Unlock() }

// Validate reports codes used twice and dependencies on nothing.
func (s *Set) Validate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	codes := map[string]bool{}
	for _, c := range s.checks {
		if c.Code == "" || c.Run == nil || codes[c.Code] {
			return fmt.Errorf("health: check %q is nameless, empty or there twice", c.Code)
		}
		codes[c.Code] = true
	}
	for _, c := range s.checks {
		for _, d := range c.DependsOn {
			if !codes[d] {
				return fmt.Errorf("health: check %q depends on %q, which does not exist", c.Code, d)
			}
		}
	}
	return nil
}

// SetReady says that every part has started, or no longer is.
func (s *Set) SetReady(ready bool) { s.change(func() { s.ready = ready }) }

// Drain says that the process is about to stop: it is not ready any more.
func (s *Set) Drain() { s.change(func() { s.drain = true }) }

func (s *Set) change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	for _, w := range s.watch {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Ready reports whether the process takes work.
func (s *Set) Ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready && !s.drain
}

// Changed returns a channel that fires when readiness may have changed, and a function that ends it.
func (s *Set) Changed() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	s.watch = append(s.watch, ch)
	s.mu.Unlock()
	return ch, func() {
		s.mu.Lock()
		s.watch = slices.DeleteFunc(s.watch, func(w chan struct{}) bool { return w == ch })
		s.mu.Unlock()
	}
}

// Alive asks the checks of the first duty: what /healthz, the watchdog and `health` answer.
func (s *Set) Alive(ctx context.Context) error {
	for _, f := range s.collect(ctx, func(c Check) bool { return c.Duty }) {
		if f.Severity == Fail {
			return fmt.Errorf("%s: %s", f.Code, f.Detail)
		}
	}
	return nil
}

// Report runs all checks.
func (s *Set) Report(ctx context.Context) Report {
	return s.report(s.collect(ctx, func(Check) bool { return true }))
}

// Offline runs the checks that make sense with the server down: what doctor does then.
func (s *Set) Offline(ctx context.Context) Report {
	return s.report(s.collect(ctx, func(c Check) bool { return c.Offline }))
}

func (s *Set) report(findings []Finding) Report {
	s.mu.Lock()
	extra, state := s.extra, s.state
	r := Report{Service: s.service, Version: s.version, Started: s.started.UTC(), Ready: s.ready && !s.drain, Findings: findings}
	drain, ready := s.drain, s.ready
	s.mu.Unlock()
	switch {
	case drain:
		r.State = "draining"
	case !ready:
		r.State = "starting"
	case r.Worst() == Fail:
		r.State = "down"
	case r.Worst() == Warn:
		r.State = "degraded"
	default:
		r.State = "healthy"
	}
	// A failed check outside of the first duty degrades; only the duty itself takes a service down.
	if r.State == "down" && !s.dutyFailed(findings) {
		r.State = "degraded"
	}
	if state != nil && !drain {
		if own := state(); own != "" {
			r.State = own
		}
	}
	if extra != nil {
		r.Extra = extra()
	}
	return r
}

func (s *Set) dutyFailed(findings []Finding) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.checks {
		if c.Duty && slices.ContainsFunc(findings, func(f Finding) bool { return f.Code == c.Code && f.Severity == Fail }) {
			return true
		}
	}
	return false
}

func (s *Set) collect(ctx context.Context, want func(Check) bool) []Finding {
	s.run.Lock()
	defer s.run.Unlock()
	s.mu.Lock()
	checks := slices.Clone(s.checks)
	s.mu.Unlock()
	findings := []Finding{}
	bad := map[string]bool{}
	for _, c := range checks {
		if !want(c) {
			continue
		}
		cctx, cancel := context.WithTimeout(ctx, checkTime)
		res := c.Run(cctx)
		cancel()
		f := Finding{Code: c.Code, Severity: res.Severity, Title: c.Title, Detail: res.Detail, Next: res.Next, DependsOn: c.DependsOn}
		if f.Severity == "" {
			f.Severity = Good
		}
		f.Since = s.mark(c.Code, f.Severity != Good, res.Since)
		bad[c.Code] = f.Severity != Good
		findings = append(findings, f)
	}
	for i, f := range findings {
		findings[i].Hidden = f.Severity != Good && slices.ContainsFunc(f.DependsOn, func(d string) bool { return bad[d] })
	}
	return findings
}

// mark remembers since when a code has been bad.
func (s *Set) mark(code string, bad bool, since time.Time) *time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bad {
		delete(s.since, code)
		return nil
	}
	if since.IsZero() {
		if first, ok := s.since[code]; ok {
			since = first
		} else {
			since = time.Now()
		}
	}
	since = since.UTC()
	s.since[code] = since
	return &since
}
