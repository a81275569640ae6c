package rpc

import (
	"context"
	"fmt"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/route"
)

type admin struct {
	mcproxyv1.UnimplementedAdminServiceServer
	s *Services
}

func (a *admin) GetStatus(context.Context, *mcproxyv1.GetStatusRequest) (*mcproxyv1.GetStatusResponse, error) {
	return a.s.Status(), nil
}

// Status is the one look at the process.
func (s *Services) Status() *mcproxyv1.GetStatusResponse {
	snap := s.Control.Snapshot()
	out := &mcproxyv1.GetStatusResponse{State: s.State(), Version: s.Version, Started: timeTo(s.Control.Started()), Generation: snap.Generation,
		ReadOnly: s.Control.ReadOnly(), Certificates: s.certList(), ActiveConnections: s.Ingress.Active(),
		MaxConnections: int64(s.Ingress.Settings().Limits.MaxConnections), Problems: s.Problems()}
	names := map[string]bool{}
	for _, l := range s.Ingress.Listeners() {
		names[l.Name] = true
		out.Listeners = append(out.Listeners, &mcproxyv1.Listener{Name: l.Name, Kind: string(l.Kind), Addrs: l.Addrs, Bound: l.Bound,
			ActiveConnections: l.Active, ProxyProtocol: l.ProxyProtocol})
	}
	add := func(kind, subject, next, format string, args ...any) {
		out.Problems = append(out.Problems, &mcproxyv1.Problem{Kind: kind, Subject: subject, Detail: fmt.Sprintf(format, args...), Next: next})
	}
	for _, r := range snap.Index.All() {
		m := s.routeTo(snap, r)
		out.Routes = append(out.Routes, m)
		key := r.Spec.Key.String()
		if m.GetState() == mcproxyv1.RouteState_ROUTE_STATE_DEGRADED {
			last := "no backend is configured"
			for _, b := range m.GetBackends() {
				last = b.GetAddr() + ": " + b.GetLastError()
			}
			add("degraded", key, "mc-proxy route show "+key, "no backend is up (%s)", last)
		}
		if m.GetStale() {
			add("stale", key, "mc-proxy route show "+key, "the lease of %s lapsed at %s; the route serves on", r.Spec.Owner, m.GetLeaseUntil().AsTime().Format("2006-01-02 15:04:05"))
		}
		if m.GetCertError() != "" {
			add("cert_error", key, "mc-proxy cert list", "%s", m.GetCertError())
		}
		if c := s.Control.Conflict(r.Spec.Key); c != "" {
			add("conflict", key, "remove the route from one of the two", "the configuration file states it, %s", c)
		}
		if !names[r.Spec.Listener] {
			add("listener", key, "configure the listener, or delete the route", "no listener is called %s", r.Spec.Listener)
		}
	}
	return out
}

func (a *admin) Apply(ctx context.Context, req *mcproxyv1.ApplyRequest) (*mcproxyv1.ApplyResponse, error) {
	var specs []route.Spec
	for _, m := range req.GetRoutes() {
		s, err := specFrom(m)
		if err != nil {
			return nil, err
		}
		specs = append(specs, s)
	}
	changes, gen, err := a.s.Control.Apply(ctx, request(ctx, "Apply", "", req, nil), req.GetOwner(), specs, req.GetPrune(), req.GetDryRun(), req.GetTakeOver(), req.IfGeneration)
	if err != nil {
		return nil, err
	}
	out := &mcproxyv1.ApplyResponse{Generation: gen}
	for _, c := range changes {
		out.Changes = append(out.Changes, &mcproxyv1.Change{Action: c.Action, Route: c.Key.String(), Fields: c.Fields})
	}
	return out, nil
}

func (a *admin) Export(_ context.Context, req *mcproxyv1.ExportRequest) (*mcproxyv1.ExportResponse, error) {
	snap := a.s.Control.Snapshot()
	out := &mcproxyv1.ExportResponse{Generation: snap.Generation}
	for _, r := range snap.Index.All() {
		if req.GetOwner() == "" || r.Spec.Owner == req.GetOwner() {
			out.Routes = append(out.Routes, SpecTo(r.Spec))
		}
	}
	return out, nil
}

func (a *admin) Reload(ctx context.Context, _ *mcproxyv1.ReloadRequest) (*mcproxyv1.ReloadResponse, error) {
	changes, restart, err := a.s.Reload(ctx)
	if err != nil {
		return nil, err
	}
	return &mcproxyv1.ReloadResponse{Generation: a.s.Control.Snapshot().Generation, Changes: changes, RestartNeeded: restart}, nil
}
