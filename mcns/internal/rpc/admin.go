package rpc

import (
	"context"
	"net/netip"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
	"metacircular.net/mcns/internal/answer"
	"metacircular.net/mcns/internal/serve"
	"metacircular.net/mcns/internal/zone"
)

type resolver struct {
	mcnsv1.UnimplementedResolverServiceServer
	*Server
}

// ListUpstreams implements the contract.
func (s *resolver) ListUpstreams(context.Context, *mcnsv1.ListUpstreamsRequest) (*mcnsv1.ListUpstreamsResponse, error) {
	res := &mcnsv1.ListUpstreamsResponse{}
	for _, u := range s.Resolver.Upstreams() {
		res.Upstreams = append(res.Upstreams, &mcnsv1.Upstream{Address: u.Address, Domain: zone.Plain(u.Domain), Alive: u.Alive,
			Seconds: u.Seconds, Queries: u.Queries, Failures: u.Failures})
	}
	return res, nil
}

// FlushCache implements the contract.
func (s *resolver) FlushCache(_ context.Context, r *mcnsv1.FlushCacheRequest) (*mcnsv1.FlushCacheResponse, error) {
	name := ""
	if r.GetName() != "" {
		var err error
		if name, err = zone.Canonical(r.GetName()); err != nil {
			return nil, err
		}
	}
	return &mcnsv1.FlushCacheResponse{Entries: uint32(s.Resolver.Flush(name, r.GetSubtree()))}, nil //nolint:gosec // a count
}

type admin struct {
	mcnsv1.UnimplementedAdminServiceServer
	*Server
}

// Health implements the contract.
func (s *admin) Health(context.Context, *mcnsv1.HealthRequest) (*mcnsv1.HealthResponse, error) {
	if s.Catalog.Down() != nil {
		return &mcnsv1.HealthResponse{Status: "degraded"}, nil
	}
	return &mcnsv1.HealthResponse{Status: "ok"}, nil
}

// GetStatus implements the contract.
func (s *admin) GetStatus(context.Context, *mcnsv1.GetStatusRequest) (*mcnsv1.GetStatusResponse, error) {
	v := s.Catalog.View()
	res := &mcnsv1.GetStatusResponse{State: "healthy", Zones: uint32(v.Len()), SnapshotTime: stamp(s.Catalog.SnapshotTime()), //nolint:gosec // a count
		ServingSince: stamp(s.Since), Answers: s.Handler.Answers.Load(), Forwarded: s.Handler.Forwarded.Load(), CacheEntries: uint64(s.Resolver.Entries())} //nolint:gosec // a count
	v.All(func(z *zone.Compiled) { res.Records += uint32(z.Count) }) //nolint:gosec // bounded
	if err := s.Catalog.Down(); err != nil {
		res.State, res.Detail = "degraded", err.Error()
		if next := fault.From(err).Next; next != "" {
			res.Detail += "; next: " + next
		}
	}
	for _, l := range s.Listeners.States() {
		for _, transport := range []string{"udp", "tcp"} {
			res.Listeners = append(res.Listeners, &mcnsv1.Listener{Address: l.Addr.String(), Transport: transport,
				Recursion: !l.Public && s.Resolver.Enabled(), Bound: l.Bound, Error: l.Err})
		}
		if !l.Bound && res.State == "healthy" {
			res.State, res.Detail = "degraded", l.Err
		}
	}
	return res, nil
}

// Explain implements the contract. It asks no upstream: it says who would be asked.
func (s *admin) Explain(_ context.Context, r *mcnsv1.ExplainRequest) (*mcnsv1.ExplainResponse, error) {
	name, err := zone.Canonical(r.GetName())
	if err != nil {
		return nil, err
	}
	t := dns.TypeA
	if r.GetType() != "" {
		if t, err = zone.ParseType(r.GetType()); err != nil {
			return nil, err
		}
	}
	from := serve.From{Client: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if r.GetClient() != "" {
		if from.Client, err = netip.ParseAddr(r.GetClient()); err != nil {
			return nil, fault.Field1("client", "%q is no address", r.GetClient())
		}
	}
	if r.GetListener() != "" {
		ap, err := netip.ParseAddrPort(r.GetListener())
		if err != nil {
			return nil, fault.Field1("listener", "%q is not ADDRESS:PORT", r.GetListener())
		}
		found := false
		for _, l := range s.Listeners.States() {
			if l.Addr == ap {
				found, from.Public = true, l.Public
			}
		}
		if !found {
			return nil, fault.Field1("listener", "%s is no listener of ours", ap)
		}
	}
	a := answer.Lookup(s.Catalog.View(), answer.Question{Name: name, Type: t}, true)
	res := &mcnsv1.ExplainResponse{Rcode: dns.RcodeToString[a.Rcode], Authoritative: a.AA, Path: a.Path}
	for _, part := range []struct {
		rrs []dns.RR
		to  *[]string
	}{{a.Answer, &res.Answer}, {a.Authority, &res.Authority}, {a.Extra, &res.Additional}} {
		for _, rr := range part.rrs {
			*part.to = append(*part.to, rr.String())
		}
	}
	switch recurse := s.Handler.MayRecurse(from); {
	case a.Found && a.Follow == "":
	case !recurse && !a.Found:
		res.Rcode = "REFUSED"
		res.Path = append(res.Path, s.whyNot(from))
	case !recurse:
		res.Path = append(res.Path, s.whyNot(from))
	default:
		res.Path = append(res.Path, "it is not ours: with RD set, the question goes to the upstreams")
	}
	return res, nil
}

func (s *admin) whyNot(f serve.From) string {
	switch {
	case f.Public:
		return "the listener is public and never asks others"
	case !s.Resolver.Enabled():
		return "no upstreams are configured: recursion is off"
	}
	return f.Client.String() + " is not in [recursion] allow"
}
