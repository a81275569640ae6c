package forward

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcns/internal/settings"
	"metacircular.net/mcns/internal/zone"
)

// Limits.
const (
	patience    = 1800 * time.Millisecond // after this a stale answer is given
	failureHold = 5 * time.Second         // a failure is remembered for this long (RFC 9520)
	staleTTL    = 30
	maxWaiters  = 64 // that share one question in flight
)

// Answer is what a question got.
type Answer struct {
	Rcode  int
	Answer []dns.RR
	Ns     []dns.RR
	EDE    uint16 // extended error, 0 = none
	Text   string
}

// Config describes a Resolver.
type Config struct {
	Cache settings.Cache
	Clock clock.Clock
	Log   *slog.Logger
}

// Resolver forwards. Safe for concurrent use.
type Resolver struct {
	cache *cache
	clock clock.Clock
	log   *slog.Logger
	table atomic.Pointer[table]

	mu     sync.Mutex // guards flying
	flying map[question]*flight
}

// table is one configuration of upstreams. Immutable but for the upstreams' counters.
type table struct {
	defaults []*upstream
	domains  map[string][]*upstream
}

type question struct {
	name   string // lower-case
	qtype  uint16
	do, cd bool
}

type flight struct {
	done    chan struct{}
	answer  Answer
	ok      bool
	waiters int
}

// New returns a resolver without upstreams.
func New(cfg Config) *Resolver {
	r := &Resolver{cache: newCache(cfg.Cache), clock: clock.Or(cfg.Clock), log: log.Or(cfg.Log), flying: map[question]*flight{}}
	r.table.Store(&table{})
	return r
}

// Set exchanges the upstreams. Validated settings only.
func (r *Resolver) Set(defaults []string, forwards []settings.Forward) error {
	t := &table{domains: map[string][]*upstream{}}
	var err error
	if t.defaults, err = upstreams(".", defaults); err != nil {
		return err
	}
	for _, f := range forwards {
		name, err := zone.Canonical(f.Domain)
		if err != nil {
			return err
		}
		if t.domains[name], err = upstreams(name, f.Upstreams); err != nil {
			return err
		}
	}
	r.table.Store(t)
	return nil
}

// Enabled reports whether there is anybody to ask.
func (r *Resolver) Enabled() bool {
	t := r.table.Load()
	return len(t.defaults) > 0 || len(t.domains) > 0
}

// route returns the upstreams for a name; the longest [[forward]] wins, without fall-back.
func (t *table) route(name string) ([]*upstream, bool) {
	if len(t.domains) > 0 {
		for p := name; p != ""; p = zone.Parent(p) {
			if u, ok := t.domains[p]; ok {
				return u, true
			}
		}
	}
	return t.defaults, false
}

// Resolve answers a question from the cache or from an upstream. It always answers; at worst SERVFAIL.
func (r *Resolver) Resolve(ctx context.Context, name string, qtype uint16, do, cd bool) Answer {
	q := question{strings.ToLower(name), qtype, do, cd}
	ups, specific := r.table.Load().route(q.name)
	if !specific {
		if a, ok := special(q.name, qtype); ok {
			return a
		}
	}
	if len(ups) == 0 {
		return Answer{Rcode: dns.RcodeRefused, EDE: dns.ExtendedErrorCodeProhibited, Text: "no upstream for this name"}
	}
	now := r.clock.Now()
	if a, ok := r.cache.get(q, now); ok {
		return a
	}
	f, started := r.join(q)
	if f == nil {
		return Answer{Rcode: dns.RcodeServerFailure, EDE: dns.ExtendedErrorCodeNetworkError, Text: "too many ask the same"}
	}
	if started {
		// Owned by the flight: it ends with the upstreams' timeouts, also when the first asker has gone.
		go r.fly(q, ups, f)
	}
	stale, haveStale := r.cache.stale(q, now)
	var soon <-chan time.Time
	if haveStale {
		t := time.NewTimer(patience)
		defer t.Stop()
		soon = t.C
	}
	select {
	case <-f.done:
		if f.ok || !haveStale {
			return f.answer
		}
		return stale
	case <-soon:
		return stale
	case <-ctx.Done():
		if haveStale {
			return stale
		}
		return Answer{Rcode: dns.RcodeServerFailure, EDE: dns.ExtendedErrorCodeNoReachableAuthority, Text: "no upstream answered in time"}
	}
}

// join finds the flight of a question or starts one; nil if too many wait already.
func (r *Resolver) join(q question) (f *flight, started bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f = r.flying[q]; f != nil {
		if f.waiters >= maxWaiters*16 {
			return nil, false
		}
		f.waiters++
		return f, false
	}
	f = &flight{done: make(chan struct{}), waiters: 1}
	r.flying[q] = f
	return f, true
}

// fly asks the upstreams in order of their health.
func (r *Resolver) fly(q question, ups []*upstream, f *flight) {
	defer func() {
		r.mu.Lock()
		delete(r.flying, q)
		r.mu.Unlock()
		close(f.done)
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	for _, u := range ranked(ups, r.clock.Now()) {
		m, err := u.ask(ctx, q, r.clock)
		if err != nil {
			r.log.Debug("upstream failed", "upstream", u.String(), log.Err(err))
			continue
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			continue
		}
		f.answer, f.ok = Answer{Rcode: m.Rcode, Answer: m.Answer, Ns: negativeOnly(m)}, true
		r.cache.put(q, f.answer, r.clock.Now())
		return
	}
	f.answer = Answer{Rcode: dns.RcodeServerFailure, EDE: dns.ExtendedErrorCodeNoReachableAuthority, Text: "no upstream answered"}
	r.cache.fail(q, f.answer, r.clock.Now())
}

// negativeOnly keeps the SOA of a negative answer; other authority records serve no other question.
func negativeOnly(m *dns.Msg) []dns.RR {
	var out []dns.RR
	for _, rr := range m.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			out = append(out, rr)
		}
	}
	return out
}

// Flush forgets a name, with subtree all below it, with "" everything, and says how many entries went.
func (r *Resolver) Flush(name string, subtree bool) int { return r.cache.flush(name, subtree) }

// Entries returns how many answers are cached.
func (r *Resolver) Entries() int { return r.cache.len() }

// Upstream is one server as status shows it.
type Upstream struct {
	Address, Domain   string
	Alive             bool
	Seconds           float64
	Queries, Failures uint64
}

// Upstreams lists the servers.
func (r *Resolver) Upstreams() []Upstream {
	t := r.table.Load()
	var out []Upstream
	add := func(us []*upstream) {
		for _, u := range us {
			out = append(out, u.state(r.clock.Now()))
		}
	}
	add(t.defaults)
	for _, us := range t.domains {
		add(us)
	}
	return out
}
