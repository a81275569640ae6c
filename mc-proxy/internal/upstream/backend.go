package upstream

import (
	"crypto/x509"
	"sync"
	"time"

	"metacircular.net/mc-proxy/internal/route"
)

// Settings say how a backend is reached and judged. They come from its route.
type Settings struct {
	L7             bool
	TLS            bool
	ServerName     string
	Proto          route.Proto
	ProxyOut       route.ProxyOut
	ProxyKey       string
	Check          route.Check
	Connect        time.Duration
	ResponseHeader time.Duration
}

// Health is what checks and traffic say about a backend.
type Health string

// The healths. Unknown counts as up, so that a cold start serves at once.
const (
	Unknown Health = "unknown"
	Up      Health = "up"
	Down    Health = "down"
	Ejected Health = "ejected"
)

const (
	firstEjection = time.Second
	maxEjection   = 30 * time.Second
	// checksToChange is how many equal results in a row change a known state.
	checksToChange = 2
)

// Env is what all backends share.
type Env struct {
	Dial  *Dialer
	Roots func() *x509.CertPool // trusted for backends that speak TLS
	// HopKey reads the hop key in a file named by a route.
	HopKey func(file string) ([]byte, error)
	// Now is the time.
	Now func() time.Time
	// Idle is told, on a goroutine of its own, that a draining backend has nothing in flight any more.
	Idle func(routeID int64, addr string)
}

// Backend is one backend of one route.
type Backend struct {
	Addr    string
	RouteID int64
	env     *Env

	mu       sync.Mutex
	settings Settings
	draining bool
	until    time.Time   // deadline of the drain, zero without
	cutter   *time.Timer // closes the rest at the deadline
	works    map[*Work]struct{}
	idling   bool          // draining with nothing in flight
	idle     chan struct{} // closed once the connections of an idling backend are closed as well
	trans    *transports
	cuts     int // work that was closed from here, ever

	health     Health
	streak     int // equal check results in a row that differ from health
	fails      int // dial failures in a row
	ejected    time.Time
	lastError  string
	stopChecks func()
}

// Work is one connection or request bound to a backend.
type Work struct {
	Backend *Backend
	cut     func()
	once    sync.Once
}

func newBackend(env *Env, routeID int64, addr string, s Settings) *Backend {
	return &Backend{Addr: addr, RouteID: routeID, env: env, settings: s, works: map[*Work]struct{}{}, health: Unknown, idle: make(chan struct{})}
}

// Acquire binds new work to the backend; false if it drains. cut must end the work soon; it is called at
// most once, without locks held.
func (b *Backend) Acquire(cut func()) (*Work, bool) {
	w := &Work{Backend: b, cut: cut}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining {
		return nil, false
	}
	b.works[w] = struct{}{}
	return w, true
}

// Release ends the work. It may be called more than once.
func (w *Work) Release() {
	w.once.Do(func() {
		b := w.Backend
		b.mu.Lock()
		delete(b.works, w)
		b.idleLocked()
		b.mu.Unlock()
	})
}

// idleLocked closes what the transports of a drained backend pool, and then calls it idle. b.mu is held.
func (b *Backend) idleLocked() {
	if !b.draining || len(b.works) > 0 || b.idling {
		return
	}
	b.idling = true
	trans, done, tell := b.trans, b.idle, !b.until.IsZero() && b.env.Idle != nil
	b.trans = nil
	go func() {
		trans.close()
		close(done)
		if tell {
			b.env.Idle(b.RouteID, b.Addr)
		}
	}()
}

// InFlight returns how much work is bound to the backend.
func (b *Backend) InFlight() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.works)
}

// drain takes the backend out of service; at until, unless zero, the rest is closed.
func (b *Backend) drain(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.draining && b.until.Equal(until) {
		return
	}
	b.draining, b.until = true, until
	if b.cutter != nil {
		b.cutter.Stop()
		b.cutter = nil
	}
	if !until.IsZero() && len(b.works) > 0 {
		b.cutter = time.AfterFunc(max(0, until.Sub(b.env.Now())), func() { b.Cut() })
	}
	if b.stopChecks != nil {
		b.stopChecks()
		b.stopChecks = nil
	}
	if b.idling && !until.IsZero() && b.env.Idle != nil {
		// It was idle before the deadline came; the table still has to learn of it.
		go b.env.Idle(b.RouteID, b.Addr)
		return
	}
	b.idleLocked()
}

// restore puts a draining backend back into service.
func (b *Backend) restore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.draining {
		return
	}
	b.draining, b.until = false, time.Time{}
	if b.cutter != nil {
		b.cutter.Stop()
		b.cutter = nil
	}
	b.idling, b.idle = false, make(chan struct{})
	b.health, b.streak, b.fails, b.ejected = Unknown, 0, 0, time.Time{}
}

// configure takes over settings; transports made with others serve their requests to the end.
func (b *Backend) configure(s Settings) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settings == s {
		return
	}
	b.settings = s
	if old := b.trans; old != nil {
		b.trans = nil
		go old.retire()
	}
	if b.stopChecks != nil {
		b.stopChecks()
		b.stopChecks = nil
	}
}

// Idle returns a channel that is closed once the drained backend has nothing in flight and no connection left.
func (b *Backend) Idle() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.idle
}

// Cut closes all work in flight and returns how much it was.
func (b *Backend) Cut() int {
	b.mu.Lock()
	works := make([]*Work, 0, len(b.works))
	for w := range b.works {
		works = append(works, w)
	}
	b.cuts += len(works)
	b.mu.Unlock()
	for _, w := range works {
		w.cut()
	}
	return len(works)
}

// Cuts returns how much work was ever closed by Cut, also by the drain's own deadline.
func (b *Backend) Cuts() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cuts
}

// State is a picture of a backend for people.
type State struct {
	Draining   bool
	DrainUntil time.Time
	Health     Health
	InFlight   int
	LastError  string
}

// State returns the present state.
func (b *Backend) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := State{Draining: b.draining, DrainUntil: b.until, Health: b.health, InFlight: len(b.works), LastError: b.lastError}
	if s.Health != Down && b.env.Now().Before(b.ejected) {
		s.Health = Ejected
	}
	return s
}

// Settings returns how the backend is reached.
func (b *Backend) Settings() Settings {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.settings
}

// load returns in-flight work and whether the backend may get more.
func (b *Backend) load(now time.Time) (inFlight int, usable, draining bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.works), !b.draining && b.health != Down && !now.Before(b.ejected), b.draining
}

// dialled records how a dial ended. A failure ejects the backend for a moment that doubles.
func (b *Backend) dialled(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.fails, b.ejected = 0, time.Time{}
		return
	}
	b.lastError = err.Error()
	b.fails++
	b.ejected = b.env.Now().Add(min(firstEjection<<min(b.fails-1, 10), maxEjection))
}

// checked records the result of an active check.
func (b *Backend) checked(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := Up
	if err != nil {
		got = Down
		b.lastError = err.Error()
	} else {
		b.lastError = ""
		b.fails, b.ejected = 0, time.Time{}
	}
	if got == b.health {
		b.streak = 0
		return
	}
	b.streak++
	if b.streak >= checksToChange || b.health == Unknown && got == Up {
		b.health, b.streak = got, 0
	}
}

// close ends everything the backend owns.
func (b *Backend) close() {
	b.mu.Lock()
	if b.cutter != nil {
		b.cutter.Stop()
	}
	if b.stopChecks != nil {
		b.stopChecks()
		b.stopChecks = nil
	}
	trans := b.trans
	b.trans = nil
	b.mu.Unlock()
	trans.close()
}
