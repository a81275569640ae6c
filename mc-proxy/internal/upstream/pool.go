package upstream

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/route"
)

// Errors of a choice.
var (
	// ErrNoBackend means that no backend is up.
	ErrNoBackend = fault.New(fault.Unavailable, "no backend is up").WithReason("NO_BACKEND")
	// ErrStale means that the table has moved on: load the newest and choose again.
	ErrStale = fault.New(fault.Unavailable, "the routing table has changed").WithReason("STALE_TABLE")
)

// Route is the live part of a route.
type Route struct {
	ID   int64
	Gate *Gate

	env      *Env
	mu       sync.Mutex
	backends map[string]*Backend
	lastTry  time.Time // of a backend that was known to be down
}

// Pool holds the live parts of all routes.
type Pool struct {
	env     *Env
	waiting atomic.Int64

	mu     sync.Mutex
	routes map[int64]*Route
	gone   []*Route // removed routes with work left
}

// NewPool returns an empty pool.
func NewPool(env *Env) *Pool { return &Pool{env: env, routes: map[int64]*Route{}} }

// settingsOf derives how the backends of a route are reached.
func settingsOf(r *route.Route, connect, responseHeader time.Duration) Settings {
	s := Settings{L7: r.Spec.Mode == route.L7, TLS: r.Spec.BackendTLS, ServerName: r.Spec.BackendName, Proto: r.Spec.Proto,
		ProxyOut: r.Spec.ProxyOut, ProxyKey: r.Spec.ProxyKey, Check: r.Spec.Check, Connect: r.Spec.Timeouts.Connect, ResponseHeader: r.Spec.Timeouts.ResponseHeader}
	if s.ServerName == "" {
		s.ServerName = r.Spec.Hostname
	}
	if s.Connect == 0 {
		s.Connect = connect
	}
	if s.ResponseHeader == 0 {
		s.ResponseHeader = responseHeader
	}
	return s
}

// Prepare makes sure that every route and backend of the table exists, and returns the live routes by id.
// It is called before the table is published.
func (p *Pool) Prepare(x *route.Index, connect, responseHeader time.Duration) map[int64]*Route {
	p.mu.Lock()
	defer p.mu.Unlock()
	live := make(map[int64]*Route, len(x.All()))
	for _, r := range x.All() {
		lr := p.routes[r.ID]
		if lr == nil {
			lr = &Route{ID: r.ID, env: p.env, Gate: &Gate{waiting: &p.waiting}, backends: map[string]*Backend{}}
			p.routes[r.ID] = lr
		}
		if r.Hold != nil {
			lr.Gate.Hold(r.Hold.MaxWait, r.Hold.MaxQueued)
		}
		s := settingsOf(r, connect, responseHeader)
		lr.mu.Lock()
		for _, b := range r.Spec.Backends {
			if have := lr.backends[b.Addr]; have != nil {
				have.configure(s)
				have.restore()
			} else {
				lr.backends[b.Addr] = newBackend(p.env, r.ID, b.Addr, s)
			}
		}
		for _, d := range r.Draining {
			if lr.backends[d.Addr] == nil {
				lr.backends[d.Addr] = newBackend(p.env, r.ID, d.Addr, s)
			}
		}
		lr.mu.Unlock()
		live[r.ID] = lr
	}
	return live
}

// Settle takes what the table no longer uses out of service and opens gates that are no longer held.
// It is called after the table was published. removeBy bounds the work of removed routes; zero lets it run.
func (p *Pool) Settle(x *route.Index, removeBy time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range x.All() {
		lr := p.routes[r.ID]
		lr.mu.Lock()
		for addr, b := range lr.backends {
			i := slices.IndexFunc(r.Draining, func(d route.Draining) bool { return d.Addr == addr })
			switch {
			case r.HasBackend(addr):
				b.startChecks(lr)
			case i >= 0:
				b.drain(r.Draining[i].Until)
			case b.InFlight() == 0:
				b.drain(time.Time{})
				b.close()
				delete(lr.backends, addr)
			default:
				b.drain(time.Time{})
			}
		}
		lr.mu.Unlock()
		if r.Hold == nil {
			lr.Gate.Release()
		}
	}
	for id, lr := range p.routes {
		if x.Get(id) != nil {
			continue
		}
		delete(p.routes, id)
		lr.mu.Lock()
		for _, b := range lr.backends {
			b.drain(removeBy)
		}
		lr.mu.Unlock()
		lr.Gate.Release() // waiters look again, and find no route
		p.gone = append(p.gone, lr)
	}
	p.gone = slices.DeleteFunc(p.gone, func(lr *Route) bool {
		n := 0
		for _, b := range lr.Backends() {
			n += b.InFlight()
		}
		if n > 0 {
			return false
		}
		for _, b := range lr.Backends() {
			b.close()
		}
		return true
	})
}

// Close ends the checks and connections of all backends.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, lr := range p.routes {
		for _, b := range lr.Backends() {
			b.close()
		}
	}
	for _, lr := range p.gone {
		for _, b := range lr.Backends() {
			b.close()
		}
	}
}

// Backends returns the backends that exist, active or draining.
func (r *Route) Backends() []*Backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*Backend, 0, len(r.backends))
	for _, b := range r.backends {
		out = append(out, b)
	}
	return out
}

// Backend returns the backend at addr, nil without one.
func (r *Route) Backend(addr string) *Backend {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.backends[addr]
}

// Pick binds work to the usable backend with the least in flight for its weight, ties at random. Backends
// named in tried are left out. With all down it lets one attempt a second through and refuses the rest.
func (r *Route) Pick(active []route.Backend, tried []string, cut func()) (*Work, error) {
	b, err := r.choose(active, tried)
	if err != nil {
		return nil, err
	}
	if w, ok := b.Acquire(cut); ok {
		return w, nil
	}
	return nil, ErrStale
}

// Choice returns the backend Pick would take, and binds nothing.
func (r *Route) Choice(active []route.Backend) (*Backend, error) {
	r.mu.Lock()
	last := r.lastTry
	r.mu.Unlock()
	b, err := r.choose(active, nil)
	r.mu.Lock()
	r.lastTry = last
	r.mu.Unlock()
	return b, err
}

func (r *Route) choose(active []route.Backend, tried []string) (*Backend, error) {
	now := r.env.Now()
	held := r.Gate.Held()
	r.mu.Lock()
	defer r.mu.Unlock()
	var best, down *Backend
	var bestScore float64
	ties, stale, left := 0, false, 0
	for _, a := range active {
		if slices.Contains(tried, a.Addr) {
			continue
		}
		left++
		b := r.backends[a.Addr]
		if b == nil {
			stale = true
			continue
		}
		n, usable, draining := b.load(now)
		if draining {
			stale = true
			continue
		}
		if !usable && !held {
			if down == nil || rand.IntN(left) == 0 {
				down = b
			}
			continue
		}
		score := float64(n+1) / float64(max(a.Weight, 1))
		if a.Weight == 0 {
			score += 1e9 // only when nothing else is up
		}
		switch {
		case best == nil || score < bestScore:
			best, bestScore, ties = b, score, 1
		case score == bestScore:
			if ties++; rand.IntN(ties) == 0 {
				best = b
			}
		}
	}
	switch {
	case best != nil:
		return best, nil
	case stale:
		return nil, ErrStale
	case down != nil && (len(tried) > 0 || now.Sub(r.lastTry) >= time.Second):
		r.lastTry = now
		return down, nil
	}
	return nil, ErrNoBackend
}
