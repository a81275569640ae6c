package health

import (
	"context"
	"fmt"
	"time"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	Good Severity = "ok"
	Warn Severity = "warn" // works, but someone should look
	Fail Severity = "fail" // does not work
)

// Check is one thing that can be wrong. Run is called by whoever asks, at most once at a time, and has 5 s.
type Check struct {
	Code      string   // stable, e.g. "certificate"
	Title     string   // what is checked, as doctor prints it
	DependsOn []string // codes of checks whose failure explains this one's
	Duty      bool     // the service's first duty: decides Alive; never about peers, seal state or disk space
	Offline   bool     // makes sense with the server down, too
	Run       func(ctx context.Context) Result
}

// Result is what a check found.
type Result struct {
	Severity Severity
	Detail   string    // one line: what is so, or what is wrong and why
	Next     string    // what to do: one line, best a command
	Since    time.Time // when it began, if the check knows
}

// OK is a result with nothing to do.
func OK(format string, args ...any) Result {
	return Result{Severity: Good, Detail: fmt.Sprintf(format, args...)}
}

// Warning is a result someone should look at.
func Warning(format string, args ...any) Result {
	return Result{Severity: Warn, Detail: fmt.Sprintf(format, args...)}
}

// Failed is a result that something does not work.
func Failed(format string, args ...any) Result {
	return Result{Severity: Fail, Detail: fmt.Sprintf(format, args...)}
}

// Do names the next step.
func (r Result) Do(format string, args ...any) Result {
	r.Next = fmt.Sprintf(format, args...)
	return r
}

// Finding is the result of a check as everybody shows it.
type Finding struct {
	Code      string     `json:"code"`
	Severity  Severity   `json:"severity"`
	Title     string     `json:"title"`
	Detail    string     `json:"detail"`
	Next      string     `json:"next,omitempty"`
	Since     *time.Time `json:"since,omitempty"`
	DependsOn []string   `json:"depends_on,omitempty"`
	Hidden    bool       `json:"hidden,omitempty"` // explained by a finding it depends on
}

// Report is the status document of a service.
type Report struct {
	Service  string    `json:"service"`
	Version  string    `json:"version"`
	State    string    `json:"state"` // healthy, degraded, down, starting, draining; sealed where a service says so
	Ready    bool      `json:"ready"`
	Started  time.Time `json:"started"`
	Findings []Finding `json:"findings"`
	// Extra is what the service itself adds (MCIAS: stream_id and the newest audit number).
	Extra map[string]any `json:"extra,omitempty"`
}

// Worst returns the highest severity among the findings that are not hidden.
func (r Report) Worst() Severity {
	worst := Good
	for _, f := range r.Findings {
		switch {
		case f.Hidden:
		case f.Severity == Fail:
			return Fail
		case f.Severity == Warn:
			worst = Warn
		}
	}
	return worst
}
