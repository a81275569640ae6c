package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/route"
)

// deadline is when a backend that leaves without a deadline of its own is cut.
func (d *draft) deadline() time.Time { return d.c.cfg.Now().Add(d.c.cfg.Drain) }

// setBackends changes the active set and notes what leaves it.
func (d *draft) setBackends(e *route.Route, set []route.Backend, until time.Time) {
	for _, b := range e.Spec.Backends {
		if !slices.ContainsFunc(set, func(x route.Backend) bool { return x.Addr == b.Addr }) {
			d.left = append(d.left, Leaving{RouteID: e.ID, Addr: b.Addr})
		}
	}
	e.SetBackends(set, until)
}

func errNoRoute(what any) error {
	return fault.New(fault.NotFound, "there is no route %v", what).WithNext("mc-proxy route list")
}

// Put states a whole route.
func (c *Control) Put(ctx context.Context, req Request, spec route.Spec, g Guard) ([]byte, error) {
	spec, err := route.Normalise(spec)
	if err != nil {
		return nil, err
	}
	g.Owner = spec.Owner
	if spec.Owner == route.OwnerConfig {
		return nil, fault.Field1("owner", "config belongs to the configuration file %s", c.cfg.ConfigFile)
	}
	if err := c.vet(spec); err != nil {
		return nil, err
	}
	return c.write(ctx, req, time.Time{}, func(d *draft) error {
		_, err := d.put1(spec, g, req.Caller)
		return err
	})
}

// Delete removes a route. With drain its work is cut after that time.
func (c *Control) Delete(ctx context.Context, req Request, id int64, g Guard, drain time.Duration) ([]byte, error) {
	var by time.Time
	if drain > 0 {
		by = c.cfg.Now().Add(drain)
	}
	return c.write(ctx, req, by, func(d *draft) error {
		r := d.get(id)
		if r == nil {
			return errNoRoute(id)
		}
		if err := c.revision(g, r.Spec.Key, r); err != nil {
			return err
		}
		if err := c.owned(g, r); err != nil {
			return err
		}
		d.remove(id)
		return nil
	})
}

// SetBackend adds a backend, changes its weight, or takes it back from draining.
func (c *Control) SetBackend(ctx context.Context, req Request, id int64, b route.Backend, g Guard) ([]byte, error) {
	addr, err := route.NormaliseAddr(b.Addr)
	if err != nil {
		return nil, err
	}
	b.Addr = addr
	return c.write(ctx, req, time.Time{}, func(d *draft) error {
		r := d.get(id)
		if r == nil {
			return errNoRoute(id)
		}
		if err := c.revision(g, r.Spec.Key, r); err != nil {
			return err
		}
		if err := c.owned(g, r); err != nil {
			return err
		}
		d.named = append(d.named, id)
		set := slices.DeleteFunc(slices.Clone(r.Spec.Backends), func(x route.Backend) bool { return x.Addr == addr })
		spec := r.Spec
		spec.Backends = append(set, b)
		spec, err := route.Normalise(spec)
		if err != nil {
			return err
		}
		if err := c.vetBackends(spec); err != nil {
			return err
		}
		if spec.Equal(r.Spec) {
			return nil
		}
		e := d.edit(r)
		d.setBackends(e, spec.Backends, d.deadline())
		e.Revision = d.gen
		return nil
	})
}

func (c *Control) vetBackends(s route.Spec) error {
	s.Mode, s.ProxyKey = route.L4, "" // certificate and key were judged when the route was put
	return c.vet(s)
}

// StartDrain gives a backend no new work; at until the rest is cut. It reports whether the backend was known.
func (c *Control) StartDrain(ctx context.Context, req Request, id int64, addr string, until time.Time, g Guard) (known bool, err error) {
	addr, err = route.NormaliseAddr(addr)
	if err != nil {
		return false, err
	}
	_, err = c.write(ctx, req, time.Time{}, func(d *draft) error {
		r := d.get(id)
		if r == nil {
			return errNoRoute(id)
		}
		active := r.HasBackend(addr)
		if known = active || slices.ContainsFunc(r.Draining, func(x route.Draining) bool { return x.Addr == addr }); !known {
			return nil
		}
		if err := c.owned(g, r); err != nil {
			return err
		}
		e := d.edit(r)
		e.Spec.Backends = slices.DeleteFunc(e.Spec.Backends, func(x route.Backend) bool { return x.Addr == addr })
		e.Drain(addr, until)
		if active {
			e.Revision = d.gen
		}
		return nil
	})
	return known, err
}

// drained removes a backend whose drain has ended. It changes no revision.
func (c *Control) drained(id int64, addr string) {
	c.system(func(d *draft) error {
		r := d.get(id)
		if r == nil || !slices.ContainsFunc(r.Draining, func(x route.Draining) bool { return x.Addr == addr }) {
			return nil
		}
		e := d.edit(r)
		e.Draining = slices.DeleteFunc(e.Draining, func(x route.Draining) bool { return x.Addr == addr })
		return nil
	})
}

// Change is one difference between what is and what is stated.
type Change struct {
	Action string // create, update, delete
	Key    route.Key
	Fields []string
}

// Apply makes the routes of an owner what is stated. A dry run only says what it would do.
func (c *Control) Apply(ctx context.Context, req Request, owner string, specs []route.Spec, prune, dryRun, takeOver bool, ifGeneration *int64) ([]Change, int64, error) {
	if owner == "" {
		owner = route.OwnerOperator
	}
	if owner == route.OwnerConfig {
		return nil, 0, fault.Field1("owner", "config belongs to the configuration file %s", c.cfg.ConfigFile)
	}
	norm := make([]route.Spec, 0, len(specs))
	for i, s := range specs {
		s.Owner = owner
		s, err := route.Normalise(s)
		if err == nil {
			err = c.vet(s)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("route %d (%s): %w", i+1, s.Key, err)
		}
		norm = append(norm, s)
	}
	var changes []Change
	var gen int64
	run := func(d *draft) error {
		changes = nil
		if ifGeneration != nil && *ifGeneration != d.gen-1 {
			return fault.New(fault.Conflict, "the table is at generation %d, not %d", d.gen-1, *ifGeneration).WithReason("STALE_REVISION")
		}
		var err error
		changes, err = d.reconcile(norm, Guard{Owner: owner, TakeOver: takeOver}, req.Caller, prune)
		if gen = d.gen; !d.dirty() {
			gen--
		}
		return err
	}
	if dryRun {
		c.mu.Lock()
		defer c.mu.Unlock()
		s := c.cur.Load()
		d := c.newDraft(s)
		if err := run(d); err != nil {
			return nil, 0, err
		}
		return changes, s.Generation, d.buildIfDirty()
	}
	_, err := c.write(ctx, req, time.Time{}, run)
	return changes, gen, err
}

func (d *draft) buildIfDirty() error {
	if !d.dirty() {
		return nil
	}
	return d.build()
}

// reconcile puts specs and, with prune, removes the owner's other routes.
func (d *draft) reconcile(specs []route.Spec, g Guard, by string, prune bool) ([]Change, error) {
	var changes []Change
	stated := map[route.Key]bool{}
	for _, s := range specs {
		if stated[s.Key] {
			return nil, fault.New(fault.Invalid, "route %s is stated twice", s.Key)
		}
		stated[s.Key] = true
		have := d.find(s.Key)
		if _, err := d.put1(s, g, by); err != nil {
			return nil, err
		}
		switch {
		case have == nil:
			changes = append(changes, Change{Action: "create", Key: s.Key, Fields: Diff(route.Spec{}, s)})
		case !have.Spec.Equal(s):
			changes = append(changes, Change{Action: "update", Key: s.Key, Fields: Diff(have.Spec, s)})
		}
	}
	if prune {
		for _, r := range d.base.All() {
			if r.Spec.Owner == g.Owner && !stated[r.Spec.Key] {
				d.remove(r.ID)
				changes = append(changes, Change{Action: "delete", Key: r.Spec.Key})
			}
		}
	}
	return changes, nil
}

// Reconcile makes the routes with owner config what the file states. A route that somebody else owns keeps serving, and
// the conflict is shown.
func (c *Control) Reconcile(ctx context.Context, specs []route.Spec) error {
	conflicts := map[string]string{}
	_, err := c.write(ctx, Request{}, time.Time{}, func(d *draft) error {
		clear(conflicts)
		stated := map[route.Key]bool{}
		for _, s := range specs {
			s.Owner = route.OwnerConfig
			s, err := route.Normalise(s)
			if err != nil {
				return err
			}
			stated[s.Key] = true
			have := d.find(s.Key)
			switch {
			case have != nil && have.Spec.Owner != route.OwnerConfig:
				conflicts[s.Key.String()] = "also owned by " + have.Spec.Owner + ", which keeps serving"
			case have == nil:
				d.put[d.nextID] = &route.Route{ID: d.nextID, Spec: s, Revision: d.gen, CreatedBy: route.OwnerConfig}
				d.nextID++
			case !have.Spec.Equal(s):
				e := d.edit(have)
				backends := s.Backends
				s.Backends = e.Spec.Backends
				e.Spec = s
				d.setBackends(e, backends, d.deadline())
				e.Revision = d.gen
			}
		}
		for _, r := range d.base.All() {
			if r.Spec.Owner == route.OwnerConfig && !stated[r.Spec.Key] {
				d.remove(r.ID)
			}
		}
		return nil
	})
	if err == nil {
		c.noteMu.Lock()
		c.conflicts = conflicts
		c.noteMu.Unlock()
	}
	return err
}

// Conflict says why the file's definition of a route does not serve, empty without.
func (c *Control) Conflict(k route.Key) string {
	c.noteMu.Lock()
	defer c.noteMu.Unlock()
	return c.conflicts[k.String()]
}

// Diff names the fields that differ, as "name: old -> new".
func Diff(a, b route.Spec) []string {
	var out []string
	add := func(name string, x, y any) {
		if sx, sy := fmt.Sprint(x), fmt.Sprint(y); sx != sy {
			out = append(out, fmt.Sprintf("%s: %s -> %s", name, orNone(sx), orNone(sy)))
		}
	}
	add("mode", a.Mode, b.Mode)
	add("proto", a.Proto, b.Proto)
	add("tls_cert", a.TLSCert, b.TLSCert)
	add("tls_key", a.TLSKey, b.TLSKey)
	add("backend_tls", a.BackendTLS, b.BackendTLS)
	add("backend_name", a.BackendName, b.BackendName)
	add("proxy_out", a.ProxyOut, b.ProxyOut)
	add("proxy_key", a.ProxyKey, b.ProxyKey)
	add("check", a.Check, b.Check)
	add("timeouts", a.Timeouts, b.Timeouts)
	add("hsts", a.HSTS, b.HSTS)
	add("owner", a.Owner, b.Owner)
	add("lease_ttl", a.LeaseTTL, b.LeaseTTL)
	add("backends", backendText(a.Backends), backendText(b.Backends))
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func backendText(set []route.Backend) string {
	parts := make([]string, 0, len(set))
	for _, b := range set {
		if b.Weight == 100 {
			parts = append(parts, b.Addr)
		} else {
			parts = append(parts, fmt.Sprintf("%s*%d", b.Addr, b.Weight))
		}
	}
	return strings.Join(parts, " ")
}
