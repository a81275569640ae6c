package rpc

import (
	"context"
	"net/netip"
	"slices"
	"strconv"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/traffic"
)

type trafficService struct {
	mcproxyv1.UnimplementedTrafficServiceServer
	s *Services
}

// selector returns the test of a filter.
func selector(f *mcproxyv1.ConnectionFilter) (func(traffic.View) bool, error) {
	var prefix netip.Prefix
	if c := f.GetClient(); c != "" {
		var err error
		if prefix, err = config.ParsePrefix(c); err != nil {
			return nil, fault.Field1("filter.client", "%q is no address or prefix", c)
		}
	}
	return func(v traffic.View) bool {
		return (len(f.GetIds()) == 0 || slices.Contains(f.GetIds(), v.ID)) &&
			(f.GetRoute() == "" || v.Route == f.GetRoute()) &&
			(f.GetBackend() == "" || v.Backend == f.GetBackend()) &&
			(!prefix.IsValid() || prefix.Contains(v.Client.Addr()))
	}, nil
}

func (t *trafficService) ListConnections(_ context.Context, req *mcproxyv1.ListConnectionsRequest) (*mcproxyv1.ListConnectionsResponse, error) {
	want, err := selector(req.GetFilter())
	if err != nil {
		return nil, err
	}
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "connections", req.GetFilter().String())
	if err != nil {
		return nil, err
	}
	after := uint64(0)
	if !p.First() {
		after, _ = strconv.ParseUint(p.After(0), 10, 64)
	}
	var rows []traffic.View
	for _, c := range t.s.Conns.All() {
		if c.ID <= after {
			continue
		}
		if v := c.View(); want(v) {
			if rows = append(rows, v); len(rows) == p.Limit() {
				break
			}
		}
	}
	rows, next := page.Next(p, rows, func(v traffic.View) []string { return []string{strconv.FormatUint(v.ID, 10)} })
	out := &mcproxyv1.ListConnectionsResponse{NextPageToken: next}
	for _, v := range rows {
		m := &mcproxyv1.Connection{Id: v.ID, Listener: v.Listener, Client: v.Client.String(), Sni: v.SNI, Route: v.Route, Mode: v.Mode, Backend: v.Backend,
			State: string(v.State), Since: timeTo(v.Since), BytesIn: v.BytesIn, BytesOut: v.BytesOut, Requests: v.Requests}
		if v.Peer != v.Client {
			m.Via = v.Peer.String()
		}
		out.Connections = append(out.Connections, m)
	}
	return out, nil
}

func (t *trafficService) KillConnections(_ context.Context, req *mcproxyv1.KillConnectionsRequest) (*mcproxyv1.KillConnectionsResponse, error) {
	f := req.GetFilter()
	if len(f.GetIds()) == 0 && f.GetRoute() == "" && f.GetBackend() == "" && f.GetClient() == "" {
		return nil, fault.Field1("filter", "name connections by id, route, backend or client")
	}
	want, err := selector(f)
	if err != nil {
		return nil, err
	}
	n := int32(0)
	for _, c := range t.s.Conns.All() {
		if want(c.View()) {
			n++
			if !req.GetDryRun() {
				c.Kill()
			}
		}
	}
	return &mcproxyv1.KillConnectionsResponse{Closed: n}, nil
}
