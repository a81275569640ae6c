package control

import (
	"context"
	"slices"
	"time"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/route"
)

// Bounds of a hold.
const (
	DefaultMaxWait   = 30 * time.Second
	MaxMaxWait       = 120 * time.Second
	DefaultMaxQueued = 1024
	MaxMaxQueued     = 4096
	DefaultHoldTTL   = 60 * time.Second
	MaxHoldTTL       = 10 * time.Minute
)

// HoldRequest says what is held and for how long.
type HoldRequest struct {
	Refs      []Ref
	Revisions []*int64 // beside Refs
	Owner     string
	TakeOver  bool
	MaxWait   time.Duration
	MaxQueued int
	TTL       time.Duration
}

func (h *HoldRequest) bound() error {
	if len(h.Refs) == 0 {
		return fault.Field1("items", "a hold needs at least one route")
	}
	if h.MaxWait == 0 {
		h.MaxWait = DefaultMaxWait
	}
	if h.MaxQueued == 0 {
		h.MaxQueued = DefaultMaxQueued
	}
	if h.TTL == 0 {
		h.TTL = DefaultHoldTTL
	}
	switch {
	case h.MaxWait < 0 || h.MaxWait > MaxMaxWait:
		return fault.Field1("max_wait", "not within 0-%s", MaxMaxWait)
	case h.MaxQueued < 0 || h.MaxQueued > MaxMaxQueued:
		return fault.Field1("max_queued", "not within 0-%d", MaxMaxQueued)
	case h.TTL < 0 || h.TTL > MaxHoldTTL:
		return fault.Field1("ttl", "not within 0-%s", MaxHoldTTL)
	}
	return nil
}

// Hold makes new work on a set of routes wait.
func (c *Control) Hold(ctx context.Context, req Request, h HoldRequest) ([]byte, error) {
	if err := h.bound(); err != nil {
		return nil, err
	}
	return c.write(ctx, req, time.Time{}, func(d *draft) error {
		until := c.cfg.Now().Add(h.TTL)
		for i, ref := range h.Refs {
			g := Guard{Owner: h.Owner, TakeOver: h.TakeOver, IfRevision: h.Revisions[i]}
			r := d.ref(ref)
			k := ref.Key
			if r != nil {
				k = r.Spec.Key
			}
			if err := c.revision(g, k, r); err != nil {
				return err
			}
			if r == nil {
				return errNoRoute(ref)
			}
			if err := c.owned(g, r); err != nil {
				return err
			}
			if r.Hold != nil && r.Hold.Op != req.Key {
				return fault.New(fault.Conflict, "route %s is already held by %s (operation %s)", k, r.Hold.By, r.Hold.Op).WithReason("HELD")
			}
			e := d.edit(r)
			e.Hold = &route.Hold{Op: req.Key, By: req.Caller, Until: until, MaxWait: h.MaxWait, MaxQueued: h.MaxQueued}
			e.Revision = d.gen
			d.named = append(d.named, e.ID)
		}
		c.noteMu.Lock()
		for _, id := range d.named {
			delete(c.lapsed, id)
		}
		c.noteMu.Unlock()
		return nil
	})
}

// Release ends the holds of a set of routes; with op only those of that operation.
func (c *Control) Release(ctx context.Context, req Request, refs []Ref, op string) ([]byte, error) {
	if len(refs) == 0 {
		return nil, fault.Field1("routes", "a release needs at least one route")
	}
	return c.write(ctx, req, time.Time{}, func(d *draft) error {
		for _, ref := range refs {
			r := d.ref(ref)
			if r == nil {
				return errNoRoute(ref)
			}
			d.named = append(d.named, r.ID)
			if r.Hold == nil || op != "" && r.Hold.Op != op {
				continue
			}
			e := d.edit(r)
			e.Hold = nil
			e.Revision = d.gen
		}
		return nil
	})
}

// setTimers arms a timer for each hold, so that one whose owner died ends. c.mu is held.
func (c *Control) setTimers(x *route.Index) {
	for id, t := range c.timers {
		t.Stop()
		delete(c.timers, id)
	}
	for _, r := range x.All() {
		if r.Hold != nil {
			id, op := r.ID, r.Hold.Op
			c.timers[id] = time.AfterFunc(max(0, r.Hold.Until.Sub(c.cfg.Now())), func() { c.lapse(id, op) })
		}
	}
}

// lapse ends a hold by itself and raises the revision, which fences a late swap of its owner.
func (c *Control) lapse(id int64, op string) {
	lapsed := false
	c.system(func(d *draft) error {
		r := d.get(id)
		if r == nil || r.Hold == nil || r.Hold.Op != op || c.cfg.Now().Before(r.Hold.Until) {
			return nil
		}
		e := d.edit(r)
		e.Hold = nil
		e.Revision = d.gen
		lapsed = true
		c.noteMu.Lock()
		c.lapsed[id] = op
		c.noteMu.Unlock()
		return nil
	})
	if lapsed {
		c.cfg.Log.Warn("hold lapsed", "route_id", id, "op", op)
	}
}

// RenewLease renews the lease of every route of an owner and returns how many there are.
func (c *Control) RenewLease(owner string) int {
	now, n := c.cfg.Now(), 0
	c.leaseMu.Lock()
	defer c.leaseMu.Unlock()
	s := c.cur.Load()
	for id := range c.leases {
		if s.Index.Get(id) == nil {
			delete(c.leases, id)
		}
	}
	for _, r := range s.Index.All() {
		if r.Spec.Owner == owner && r.Spec.LeaseTTL > 0 {
			c.leases[r.ID] = now
			n++
		}
	}
	return n
}

// beginLeases starts the lease of routes that have none running: at the start of the process, or when they are made.
func (c *Control) beginLeases(x *route.Index) {
	now := c.cfg.Now()
	c.leaseMu.Lock()
	defer c.leaseMu.Unlock()
	for _, r := range x.All() {
		if _, ok := c.leases[r.ID]; !ok && r.Spec.LeaseTTL > 0 {
			c.leases[r.ID] = now
		}
	}
}

// Lease returns until when a route's lease runs, zero without one, and whether it has lapsed. It counts from the start
// of the process: a proxy that was down cannot know whether the owner lives.
func (c *Control) Lease(r *route.Route) (until time.Time, stale bool) {
	if r.Spec.LeaseTTL == 0 {
		return time.Time{}, false
	}
	c.leaseMu.Lock()
	defer c.leaseMu.Unlock()
	from, ok := c.leases[r.ID]
	if !ok {
		from = c.cfg.Now()
	}
	until = from.Add(r.Spec.LeaseTTL)
	return until, c.cfg.Now().After(until)
}

// Resolve returns the present routes that refs name.
func (c *Control) Resolve(refs []Ref) ([]*route.Route, error) {
	x := c.cur.Load().Index
	out := make([]*route.Route, 0, len(refs))
	for _, ref := range refs {
		r := x.Get(ref.ID)
		if ref.ID == 0 {
			r = x.Find(ref.Key)
		}
		if r == nil {
			return nil, errNoRoute(ref)
		}
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, nil
}
