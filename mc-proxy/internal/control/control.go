package control

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/idem"

	"metacircular.net/mc-proxy/internal/certs"
	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/store"
	"metacircular.net/mc-proxy/internal/table"
	"metacircular.net/mc-proxy/internal/telemetry"
	"metacircular.net/mc-proxy/internal/upstream"
)

// Config is what a Control needs.
type Config struct {
	DB       *db.DB // nil: the table is read-only
	Fallback string // file written after each commit
	Env      *upstream.Env
	Certs    *certs.Store
	Metrics  *telemetry.Metrics
	Log      *slog.Logger
	Now      func() time.Time

	// Listener reports whether a listener of kind tls has this name.
	Listener func(name string) bool
	// Own reports whether an address is one the proxy listens on.
	Own func(netip.AddrPort) bool
	// CheckKey refuses a hop key file that cannot be used.
	CheckKey func(file string) error
	// ConfigFile is named when somebody tries to change a route of the configuration.
	ConfigFile string

	Connect, ResponseHeader, Drain time.Duration
}

// Control owns the routing table.
type Control struct {
	cfg     Config
	pool    *upstream.Pool
	cur     atomic.Pointer[table.Snapshot]
	started time.Time
	saved   chan struct{} // holds a token when the fallback file is behind

	mu     sync.Mutex // one write at a time
	nextID int64
	closed bool
	timers map[int64]*time.Timer // of holds, by route

	leaseMu sync.Mutex
	leases  map[int64]time.Time // last renewal by route

	noteMu    sync.Mutex
	changed   chan struct{}     // closed at the next publication
	lapsed    map[int64]string  // op of a hold that ended by itself, by route
	conflicts map[string]string // route key → why the file's definition does not serve
}

// New returns a Control that serves the given table at once.
func New(cfg Config, t store.Table) (*Control, error) {
	c := &Control{cfg: cfg, started: cfg.Now(), saved: make(chan struct{}, 1), nextID: max(t.NextID, 1), timers: map[int64]*time.Timer{},
		leases: map[int64]time.Time{}, changed: make(chan struct{}), lapsed: map[int64]string{}, conflicts: map[string]string{}}
	cfg.Env.Idle = c.drained
	c.pool = upstream.NewPool(cfg.Env)
	x, err := route.NewIndex(t.Routes)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.publish(x, t.Generation, time.Time{})
	return c, nil
}

// Snapshot returns the table as it is now.
func (c *Control) Snapshot() *table.Snapshot { return c.cur.Load() }

// ReadOnly reports whether the database cannot be used.
func (c *Control) ReadOnly() bool { return c.cfg.DB == nil }

// Started returns when the table began to serve.
func (c *Control) Started() time.Time { return c.started }

// Changed returns a channel that is closed at the next publication of a table.
func (c *Control) Changed() <-chan struct{} {
	c.noteMu.Lock()
	defer c.noteMu.Unlock()
	return c.changed
}

// publish makes x the table. c.mu is held. It cannot fail.
func (c *Control) publish(x *route.Index, generation int64, removeBy time.Time) {
	old := c.cur.Load()
	live := c.pool.Prepare(x, c.cfg.Connect, c.cfg.ResponseHeader)
	var pairs []certs.Pair
	for _, r := range x.All() {
		if r.Spec.Mode == route.L7 {
			pairs = append(pairs, pairOf(r.Spec))
		}
	}
	c.cfg.Certs.Use(pairs)
	s := &table.Snapshot{Generation: generation, Index: x, Live: live, Certs: map[int64]*certs.Cert{}, TLS: map[int64]*tls.Config{}}
	for _, r := range x.All() {
		if r.Spec.Mode != route.L7 {
			continue
		}
		cert := c.cfg.Certs.Get(pairOf(r.Spec))
		s.Certs[r.ID] = cert
		if old != nil && old.Certs[r.ID] == cert && old.TLS[r.ID] != nil {
			s.TLS[r.ID] = old.TLS[r.ID] // keeps its ticket keys
		} else {
			s.TLS[r.ID] = serverConfig(cert)
		}
	}
	c.beginLeases(x)
	c.cur.Store(s)
	c.pool.Settle(x, removeBy)
	c.setTimers(x)
	if old != nil {
		for _, r := range old.Index.All() {
			if x.Get(r.ID) == nil {
				c.cfg.Metrics.Forget(r.Spec.Key.String())
			}
		}
	}
	select {
	case c.saved <- struct{}{}:
	default:
	}
	c.noteMu.Lock()
	close(c.changed)
	c.changed = make(chan struct{})
	c.noteMu.Unlock()
}

// serverConfig returns the TLS side of one route. Each route has a Config of its own, never cloned, so that a session
// ticket of one route opens no session on another (CVE-2025-23419 was that).
func serverConfig(cert *certs.Cert) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return cert.Current()
		},
	}
}

func pairOf(s route.Spec) certs.Pair { return certs.Pair{Cert: s.TLSCert, Key: s.TLSKey} }

// Run keeps the fallback file up to date until ctx ends.
func (c *Control) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.saved:
			if err := c.Save(); err != nil {
				c.cfg.Log.Error("routing.snapshot is behind", "err", err)
			}
		}
	}
}

// Save writes the fallback file now.
func (c *Control) Save() error {
	if c.cfg.DB == nil || c.cfg.Fallback == "" {
		return nil
	}
	c.mu.Lock()
	s, next := c.cur.Load(), c.nextID
	c.mu.Unlock()
	return store.SaveFallback(c.cfg.Fallback, store.Table{Generation: s.Generation, NextID: next, Routes: s.Index.All()})
}

// Close stops timers and checks. Traffic that still runs is not touched.
func (c *Control) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, t := range c.timers {
		t.Stop()
	}
	c.pool.Close()
}

// Request is who asks, and how the answer is encoded: the answer is kept with the idempotency key in the same
// transaction, so that a retry gets the first one.
type Request struct {
	Caller string // stable name of the caller
	Method string
	Key    string // idempotency key, empty without
	Body   []byte // the request, deterministically encoded
	Reply  func(Result) ([]byte, error)
}

// Result is what a write did.
type Result struct {
	Generation int64
	Wrote      bool
	Routes     []*route.Route // those the write named, as they are now
	Removed    []int64
	Draining   []Leaving
}

// Leaving is a backend that lost its place.
type Leaving struct {
	RouteID int64
	Addr    string
}

// draft is a write in the making.
type draft struct {
	c      *Control
	base   *route.Index
	gen    int64
	nextID int64
	put    map[int64]*route.Route
	gone   map[int64]bool
	named  []int64 // in order
	left   []Leaving
	index  *route.Index
}

func (c *Control) newDraft(s *table.Snapshot) *draft {
	return &draft{c: c, base: s.Index, gen: s.Generation + 1, nextID: c.nextID, put: map[int64]*route.Route{}, gone: map[int64]bool{}}
}

// find returns the route with this key in the draft.
func (d *draft) find(k route.Key) *route.Route {
	for _, r := range d.put {
		if r.Spec.Key == k {
			return r
		}
	}
	if r := d.base.Find(k); r != nil && !d.gone[r.ID] && d.put[r.ID] == nil {
		return r
	}
	return nil
}

func (d *draft) get(id int64) *route.Route {
	if d.gone[id] {
		return nil
	}
	if r := d.put[id]; r != nil {
		return r
	}
	return d.base.Get(id)
}

// edit returns a copy of the route that the draft will write.
func (d *draft) edit(r *route.Route) *route.Route {
	if e := d.put[r.ID]; e != nil {
		return e
	}
	e := r.Clone()
	d.put[r.ID] = e
	return e
}

func (d *draft) remove(id int64) { delete(d.put, id); d.gone[id] = true }

func (d *draft) dirty() bool { return len(d.put) > 0 || len(d.gone) > 0 }

// build makes the index of the draft.
func (d *draft) build() error {
	routes := make([]*route.Route, 0, len(d.base.All())+len(d.put))
	seen := map[int64]bool{}
	for _, r := range d.base.All() {
		if d.gone[r.ID] {
			continue
		}
		if e := d.put[r.ID]; e != nil {
			r = e
		}
		seen[r.ID] = true
		routes = append(routes, r)
	}
	for id, r := range d.put {
		if !seen[id] {
			routes = append(routes, r)
		}
	}
	x, err := route.NewIndex(routes)
	d.index = x
	return err
}

func (d *draft) result() Result {
	r := Result{Generation: d.gen, Wrote: d.dirty(), Draining: d.left}
	if !r.Wrote {
		r.Generation--
	}
	for _, id := range d.named {
		if rt := d.get(id); rt != nil {
			r.Routes = append(r.Routes, rt)
		}
	}
	for id := range d.gone {
		r.Removed = append(r.Removed, id)
	}
	return r
}

func (d *draft) change() store.Change {
	ch := store.Change{Generation: d.gen, NextID: d.nextID}
	for _, r := range d.put {
		ch.Put = append(ch.Put, r)
	}
	for id := range d.gone {
		ch.Delete = append(ch.Delete, id)
	}
	return ch
}

// write runs fn on a draft and makes it the table. removeBy bounds the work of removed routes.
func (c *Control) write(ctx context.Context, req Request, removeBy time.Time, fn func(*draft) error) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.DB == nil {
		return nil, fault.New(fault.Unavailable, "the database cannot be used; the persisted routes are served read-only").
			WithReason("READ_ONLY").WithNext("mc-proxy doctor")
	}
	if c.closed {
		return nil, fault.New(fault.Unavailable, "the proxy is stopping").WithReason("DRAINING")
	}
	base := c.cur.Load()
	var d *draft
	var reply []byte
	var replayed bool
	err := c.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
		key := idem.Key{Caller: req.Caller, Method: req.Method, Key: req.Key, Request: req.Body}
		reply, replayed, err = idem.Do(tx, key, c.cfg.Now(), func() ([]byte, error) {
			d = c.newDraft(base)
			if err := fn(d); err != nil {
				return nil, err
			}
			if d.dirty() {
				if err := d.build(); err != nil {
					return nil, err
				}
				if err := store.Apply(tx, d.change()); err != nil {
					return nil, err
				}
			}
			if req.Reply == nil {
				return nil, nil
			}
			return req.Reply(d.result())
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	if !replayed && d.dirty() {
		c.nextID = d.nextID
		c.publish(d.index, d.gen, removeBy)
	}
	return reply, nil
}

// system runs a write of the proxy's own, without an answer to keep. A proxy that stops leaves it for the next start.
func (c *Control) system(fn func(*draft) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := c.write(ctx, Request{}, time.Time{}, fn); err != nil && !fault.Is(err, fault.Unavailable) && !errors.Is(err, context.Canceled) {
		c.cfg.Log.Error("state could not be written", "err", err)
	}
}
