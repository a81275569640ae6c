package control

import (
	"net/netip"
	"strings"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/route"
)

// Guard is what a caller claims and expects when he writes.
type Guard struct {
	Owner      string // empty: operator
	TakeOver   bool
	IfRevision *int64
}

func (g Guard) owner() string {
	if g.Owner == "" {
		return route.OwnerOperator
	}
	return g.Owner
}

// revision checks the compare-and-swap of one route; r is nil when it does not exist.
func (c *Control) revision(g Guard, k route.Key, r *route.Route) error {
	if g.IfRevision == nil {
		return nil
	}
	want, have := *g.IfRevision, int64(0)
	if r != nil {
		have = r.Revision
	}
	if want == have {
		return nil
	}
	f := fault.New(fault.Conflict, "route %s is at revision %d, not %d", k, have, want).WithReason("STALE_REVISION")
	if r == nil {
		f = fault.New(fault.Conflict, "route %s does not exist, so it is not at revision %d", k, want).WithReason("STALE_REVISION")
	} else {
		c.noteMu.Lock()
		op := c.lapsed[r.ID]
		c.noteMu.Unlock()
		if op != "" && r.Hold == nil {
			f = fault.New(fault.Conflict, "the hold %s on route %s lapsed; it is at revision %d, not %d", op, k, have, want).WithReason("HOLD_LAPSED")
		}
	}
	return f.WithNext("mc-proxy route show %s", k)
}

// owned refuses to touch another owner's route unless it is taken over, and the configuration's in any case.
func (c *Control) owned(g Guard, r *route.Route) error {
	switch {
	case r == nil, r.Spec.Owner == g.owner() && g.owner() != route.OwnerConfig:
		return nil
	case r.Spec.Owner == route.OwnerConfig:
		return fault.New(fault.Precondition, "route %s belongs to the configuration file", r.Spec.Key).
			WithReason("CONFIG_OWNED").WithNext("change it in %s and run: mc-proxy reload", c.cfg.ConfigFile)
	case g.TakeOver:
		return nil
	}
	return fault.New(fault.Precondition, "route %s belongs to %s, not to %s", r.Spec.Key, r.Spec.Owner, g.owner()).
		WithReason("FOREIGN_OWNER").WithNext("take it over on purpose with --take-over")
}

// siblings refuses a route whose name another owner has with another ALPN protocol: that one is tried first, or after,
// and either would be taken away from its owner.
func (c *Control) siblings(d *draft, g Guard, k route.Key) error {
	for _, r := range d.base.All() {
		if r.Spec.Listener == k.Listener && r.Spec.Hostname == k.Hostname && r.Spec.ALPN != k.ALPN && d.get(r.ID) != nil {
			if err := c.owned(g, d.get(r.ID)); err != nil {
				return err
			}
		}
	}
	return nil
}

// vet refuses a definition that would not work here: what Normalise cannot know.
func (c *Control) vet(s route.Spec) error {
	if c.cfg.Listener != nil && !c.cfg.Listener(s.Listener) {
		return fault.Field1("listener", "no listener of kind tls is called %q", s.Listener)
	}
	for _, b := range s.Backends {
		if ap, err := netip.ParseAddrPort(b.Addr); err == nil && c.cfg.Own != nil && c.cfg.Own(ap) {
			return fault.Field1("backends", "%s is one of the proxy's own listeners", b.Addr)
		}
	}
	if s.ProxyKey != "" && c.cfg.CheckKey != nil {
		if err := c.cfg.CheckKey(s.ProxyKey); err != nil {
			return fault.Field1("proxy_key", "%v", err)
		}
	}
	if s.Mode == route.L7 {
		if _, problems := c.cfg.Certs.Check(pairOf(s), s.Hostname); len(problems) > 0 {
			return fault.Field1("tls_cert", "%s: %s", s.TLSCert, strings.Join(problems, "; "))
		}
	}
	return nil
}

// put makes spec the definition of its route in the draft and returns the route.
func (d *draft) put1(spec route.Spec, g Guard, by string) (*route.Route, error) {
	c := d.c
	have := d.find(spec.Key)
	if err := c.revision(g, spec.Key, have); err != nil {
		return nil, err
	}
	if err := c.owned(g, have); err != nil {
		return nil, err
	}
	if err := c.siblings(d, g, spec.Key); err != nil {
		return nil, err
	}
	if have != nil && have.Spec.Equal(spec) {
		d.named = append(d.named, have.ID)
		return have, nil
	}
	if have == nil {
		r := &route.Route{ID: d.nextID, Spec: spec, Revision: d.gen, CreatedBy: by}
		d.nextID++
		d.put[r.ID] = r
		d.named = append(d.named, r.ID)
		return r, nil
	}
	e := d.edit(have)
	backends := spec.Backends
	spec.Backends = e.Spec.Backends
	e.Spec = spec
	d.setBackends(e, backends, d.deadline())
	e.Revision = d.gen
	d.named = append(d.named, e.ID)
	return e, nil
}
