package rpc

import (
	"context"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
	"metacircular.net/mcns/internal/registry"
	"metacircular.net/mcns/internal/zone"
)

type services struct {
	mcnsv1.UnimplementedRegistryServiceServer
	*Server
}

// set authorises an owner's call and returns zone and owner.
func (s *services) set(ctx context.Context, zoneName string) (apex, owner string, err error) {
	apex = s.Platform
	if zoneName != "" || apex == "" {
		if apex, err = parseZone(zoneName); err != nil {
			return "", "", err
		}
	}
	return apex, auth.From(ctx).Name, s.decideZone(ctx, "sync", apex)
}

func addrs(field string, list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, a := range list {
		addr, err := netip.ParseAddr(a)
		if err != nil || addr.Zone() != "" {
			return nil, fault.Field1(field, "%q is no address", a)
		}
		out = append(out, addr.Unmap())
	}
	return out, nil
}

// Sync implements the contract.
func (s *services) Sync(ctx context.Context, r *mcnsv1.SyncRequest) (*mcnsv1.SyncResponse, error) {
	apex, owner, err := s.set(ctx, r.GetZone())
	if err != nil {
		return nil, err
	}
	c := auth.From(ctx)
	set := &registry.Set{Zone: apex, Owner: owner, Epoch: r.GetEpoch(), Generation: r.GetGeneration(),
		Keep: r.GetOnExpiry() == mcnsv1.OnExpiry_ON_EXPIRY_KEEP, Lease: r.GetLease().AsDuration()}
	if !c.HasRole(auth.RoleAdmin) {
		set.Principal = principal(c)
	}
	for _, n := range r.GetNodes() {
		a, err := addrs("nodes.addresses", n.GetAddresses())
		if err != nil {
			return nil, err
		}
		set.Nodes = append(set.Nodes, registry.Node{Name: n.GetName(), Addrs: a})
	}
	for _, in := range r.GetInstances() {
		a, err := addrs("instances.addresses", in.GetAddresses())
		if err != nil {
			return nil, err
		}
		inst := registry.Instance{Service: in.GetService(), Instance: in.GetInstance(), Node: in.GetNode(), Addrs: a, Healthy: in.GetHealthy()}
		for _, p := range in.GetPorts() {
			if p.GetPort() == 0 || p.GetPort() > 65535 {
				return nil, fault.Field1("instances.ports", "%d is no port", p.GetPort())
			}
			inst.Ports = append(inst.Ports, registry.Port{Name: p.GetName(), Proto: p.GetProtocol(), Port: uint16(p.GetPort()), //nolint:gosec // checked above
				HTTPS: p.GetHttpsRecord(), ALPN: p.GetAlpn()})
		}
		set.Instances = append(set.Instances, inst)
	}
	out, err := s.Registry.Sync(ctx, set, r.GetReason())
	if err != nil {
		return nil, err
	}
	res := &mcnsv1.SyncResponse{Changed: out.Changed, Serial: out.Serial, ExpiresAt: timestamppb.New(out.Expires)}
	for _, k := range out.Conflicts {
		res.Conflicts = append(res.Conflicts, &mcnsv1.Conflict{Name: k.Name, Type: k.Type, Owner: k.Owner, Reason: k.Reason, Text: k.Text})
	}
	return res, nil
}

// Renew implements the contract.
func (s *services) Renew(ctx context.Context, r *mcnsv1.RenewRequest) (*mcnsv1.RenewResponse, error) {
	apex, owner, err := s.set(ctx, r.GetZone())
	if err != nil {
		return nil, err
	}
	at, err := s.Registry.Renew(apex, owner, r.GetEpoch(), r.GetGeneration())
	if err != nil {
		return nil, err
	}
	return &mcnsv1.RenewResponse{ExpiresAt: timestamppb.New(at)}, nil
}

// Deregister implements the contract. Another owner's set: administrators only.
func (s *services) Deregister(ctx context.Context, r *mcnsv1.DeregisterRequest) (*mcnsv1.DeregisterResponse, error) {
	apex, owner, err := s.set(ctx, r.GetZone())
	if err != nil {
		return nil, err
	}
	if r.GetOwner() != "" && r.GetOwner() != owner {
		if err := decideAdmin(ctx, "sync", "the set of "+r.GetOwner()); err != nil {
			return nil, err
		}
		owner = r.GetOwner()
	}
	n, err := s.Registry.Deregister(ctx, apex, owner, auth.From(ctx).String(), r.GetReason())
	if err != nil {
		return nil, err
	}
	return &mcnsv1.DeregisterResponse{Removed: uint32(n)}, nil //nolint:gosec // a count
}

// ListInstances implements the contract; without the right to read names one sees one's own.
func (s *services) ListInstances(ctx context.Context, r *mcnsv1.ListInstancesRequest) (*mcnsv1.ListInstancesResponse, error) {
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "instances", r.GetZone(), r.GetService(), r.GetOwner())
	if err != nil {
		return nil, err
	}
	apex := ""
	if r.GetZone() != "" {
		if apex, err = parseZone(r.GetZone()); err != nil {
			return nil, err
		}
	}
	if err := s.decideZone(ctx, "read", apex); err != nil {
		return nil, err
	}
	c := auth.From(ctx)
	now := s.Now()
	var rows []*mcnsv1.Lease
	for _, set := range s.Registry.List() {
		if apex != "" && set.Zone != apex || r.GetOwner() != "" && set.Owner != r.GetOwner() {
			continue
		}
		for _, in := range set.Instances {
			name, err := zone.Absolute(in.Service, set.Zone)
			if err != nil || r.GetService() != "" && in.Service != r.GetService() || !s.visible(c, set.Zone, name, 0) && set.Owner != c.Name {
				continue
			}
			rows = append(rows, leaseOf(set, in, now))
		}
	}
	key := func(l *mcnsv1.Lease) []string {
		return []string{l.GetZone() + " " + l.GetOwner() + " " + l.GetInstance().GetService() + " " + l.GetInstance().GetInstance()}
	}
	for len(rows) > 0 && !p.First() && key(rows[0])[0] <= p.After(0) {
		rows = rows[1:]
	}
	rows, next := page.Next(p, rows, key)
	return &mcnsv1.ListInstancesResponse{Leases: rows, NextPageToken: next}, nil
}

func leaseOf(set registry.Set, in registry.Instance, now time.Time) *mcnsv1.Lease {
	l := &mcnsv1.Lease{Owner: set.Owner, Epoch: set.Epoch, Generation: set.Generation, Zone: zone.Plain(set.Zone),
		ExpiresAt: timestamppb.New(set.Expires()), OnExpiry: mcnsv1.OnExpiry_ON_EXPIRY_REMOVE, State: "live",
		Instance: &mcnsv1.Instance{Service: in.Service, Instance: in.Instance, Node: in.Node, Healthy: in.Healthy}}
	if set.Keep {
		l.OnExpiry = mcnsv1.OnExpiry_ON_EXPIRY_KEEP
	}
	switch {
	case now.After(set.Expires()):
		l.State = "stale"
	case !in.Healthy:
		l.State = "unhealthy"
	}
	for _, a := range in.Addrs {
		l.Instance.Addresses = append(l.Instance.Addresses, a.String())
	}
	for _, p := range in.Ports {
		l.Instance.Ports = append(l.Instance.Ports, &mcnsv1.Port{Name: p.Name, Protocol: p.Proto, Port: uint32(p.Port), HttpsRecord: p.HTTPS, Alpn: p.ALPN})
	}
	return l
}
