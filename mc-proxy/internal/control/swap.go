package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/upstream"
)

// Ref names a route by id, or by key.
type Ref struct {
	ID  int64
	Key route.Key
}

func (r Ref) String() string {
	if r.ID != 0 {
		return fmt.Sprint(r.ID)
	}
	return r.Key.String()
}

func (d *draft) ref(r Ref) *route.Route {
	if r.ID != 0 {
		return d.get(r.ID)
	}
	return d.find(r.Key)
}

// Item is one route of a swap: exactly one of Backends, Definition and Remove is set.
type Item struct {
	Ref        Ref
	IfRevision *int64
	Backends   []route.Backend
	Definition *route.Spec
	Remove     bool
}

// Swap says how a set of routes changes.
type Swap struct {
	Items       []Item
	Owner       string
	TakeOver    bool
	ReleaseHold bool
	Drain       time.Duration // 0: the old backends keep their work until DrainBackend is called
	WaitHealthy time.Duration
	Probe       func(addr string, err error) // hears each look at a new backend
}

// Swap changes a set of routes in one step or not at all.
func (c *Control) Swap(ctx context.Context, req Request, sw Swap) ([]byte, error) {
	if len(sw.Items) == 0 {
		return nil, fault.Field1("items", "a swap needs at least one route")
	}
	reply, err := c.swap(ctx, req, sw)
	switch {
	case err == nil:
		c.cfg.Metrics.Swap("ok")
	case fault.Is(err, fault.Conflict):
		c.cfg.Metrics.Swap("conflict")
	case fault.HasReason(err, "UNHEALTHY"):
		c.cfg.Metrics.Swap("unhealthy")
	default:
		c.cfg.Metrics.Swap("failed")
	}
	return reply, err
}

func (c *Control) swap(ctx context.Context, req Request, sw Swap) ([]byte, error) {
	if sw.Owner == route.OwnerConfig {
		return nil, fault.Field1("owner", "config belongs to the configuration file %s", c.cfg.ConfigFile)
	}
	for i := range sw.Items {
		if err := c.normaliseItem(&sw.Items[i], sw.Owner); err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
	}
	if sw.WaitHealthy > 0 {
		if err := c.await(ctx, sw); err != nil {
			return nil, err
		}
	}
	// Once the write has begun the caller may vanish: a commit that happened must be published.
	return c.write(ctx, req, c.removeBy(sw.Drain), func(d *draft) error { return d.swap(sw, req) })
}

func (c *Control) removeBy(drain time.Duration) time.Time {
	if drain <= 0 {
		return time.Time{}
	}
	return c.cfg.Now().Add(drain)
}

func (c *Control) normaliseItem(it *Item, owner string) error {
	if it.Definition == nil {
		return nil
	}
	if owner == "" {
		owner = it.Definition.Owner
	}
	it.Definition.Owner = owner
	s, err := route.Normalise(*it.Definition)
	if err != nil {
		return err
	}
	if s.Owner == route.OwnerConfig {
		return fault.Field1("owner", "config belongs to the configuration file %s", c.cfg.ConfigFile)
	}
	if it.Ref == (Ref{}) {
		it.Ref.Key = s.Key
	}
	it.Definition = &s
	return c.vet(s)
}

// swap applies every item to the draft.
func (d *draft) swap(sw Swap, req Request) error {
	c := d.c
	until := c.removeBy(sw.Drain)
	for i, it := range sw.Items {
		g := Guard{Owner: sw.Owner, TakeOver: sw.TakeOver, IfRevision: it.IfRevision}
		r := d.ref(it.Ref)
		if it.Definition != nil {
			if g.Owner = it.Definition.Owner; r != nil && r.Spec.Key != it.Definition.Key {
				return fault.Field1(fmt.Sprintf("items[%d].definition", i), "names %s, the item %s", it.Definition.Key, r.Spec.Key)
			}
			if _, err := d.put1(*it.Definition, g, req.Caller); err != nil {
				return err
			}
			r = d.find(it.Definition.Key)
			e := d.edit(r)
			for j := range e.Draining { // put1 drains for drain_timeout; a swap says for itself
				if slices.Contains(d.left, Leaving{RouteID: e.ID, Addr: e.Draining[j].Addr}) {
					e.Draining[j].Until = until
				}
			}
			d.mark(e, sw, req.Key)
			continue
		}
		k := it.Ref.Key
		if r != nil {
			k = r.Spec.Key
		}
		if err := c.revision(g, k, r); err != nil {
			return err
		}
		if r == nil {
			return errNoRoute(it.Ref)
		}
		if err := c.owned(g, r); err != nil {
			return err
		}
		if it.Remove {
			d.remove(r.ID)
			continue
		}
		spec := r.Spec
		spec.Backends = it.Backends
		spec, err := route.Normalise(spec)
		if err != nil {
			return err
		}
		if err := c.vetBackends(spec); err != nil {
			return err
		}
		e := d.edit(r)
		d.setBackends(e, spec.Backends, until)
		d.named = append(d.named, e.ID)
		d.mark(e, sw, req.Key)
	}
	return nil
}

func (d *draft) mark(e *route.Route, sw Swap, op string) {
	e.Revision, e.LastOp = d.gen, op
	if sw.ReleaseHold {
		e.Hold = nil
	}
}

// await probes every backend that the swap brings in. The last error of a probe is the answer when time runs out.
func (c *Control) await(ctx context.Context, sw Swap) error {
	type target struct {
		addr string
		s    upstream.Settings
	}
	var targets []target
	snap := c.cur.Load()
	for _, it := range sw.Items {
		var have *route.Route
		if it.Ref.ID != 0 {
			have = snap.Index.Get(it.Ref.ID)
		} else {
			have = snap.Index.Find(it.Ref.Key)
		}
		// A stale revision need not wait for anything.
		if err := c.revision(Guard{IfRevision: it.IfRevision}, it.Ref.Key, have); err != nil {
			return err
		}
		var spec route.Spec
		switch {
		case it.Definition != nil:
			spec = *it.Definition
		case it.Remove || have == nil:
			continue
		default:
			spec = have.Spec
			spec.Backends = it.Backends
			var err error
			if spec, err = route.Normalise(spec); err != nil {
				return err
			}
		}
		for _, b := range spec.Backends {
			if have == nil || !have.HasBackend(b.Addr) {
				targets = append(targets, target{b.Addr, upstream.SettingsOf(spec, c.cfg.Connect, c.cfg.ResponseHeader)})
			}
		}
	}
	pctx, cancel := context.WithTimeout(ctx, sw.WaitHealthy)
	defer cancel()
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	for _, t := range targets {
		wg.Go(func() {
			err := c.cfg.Env.Await(pctx, t.addr, t.s, func(err error) {
				if sw.Probe != nil {
					mu.Lock()
					defer mu.Unlock()
					sw.Probe(t.addr, err)
				}
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil {
					failed = fault.New(fault.Precondition, "nothing was changed: backend %s did not become healthy within %s: %v", t.addr, sw.WaitHealthy, err).WithReason("UNHEALTHY")
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failed
}
