package rpc

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/fault"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/control"
	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/table"
	"metacircular.net/mc-proxy/internal/upstream"
)

func modeTo(m route.Mode) mcproxyv1.RouteMode {
	if m == route.L4 {
		return mcproxyv1.RouteMode_ROUTE_MODE_L4
	}
	return mcproxyv1.RouteMode_ROUTE_MODE_L7
}

func modeFrom(m mcproxyv1.RouteMode) (route.Mode, error) {
	switch m {
	case mcproxyv1.RouteMode_ROUTE_MODE_L4:
		return route.L4, nil
	case mcproxyv1.RouteMode_ROUTE_MODE_L7:
		return route.L7, nil
	}
	return "", fault.Field1("spec.mode", "say l4 or l7")
}

func protoTo(p route.Proto) mcproxyv1.BackendProto {
	switch p {
	case route.H1:
		return mcproxyv1.BackendProto_BACKEND_PROTO_H1
	case route.H2:
		return mcproxyv1.BackendProto_BACKEND_PROTO_H2
	case route.H2C:
		return mcproxyv1.BackendProto_BACKEND_PROTO_H2C
	}
	return mcproxyv1.BackendProto_BACKEND_PROTO_AUTO
}

func protoFrom(p mcproxyv1.BackendProto) route.Proto {
	switch p {
	case mcproxyv1.BackendProto_BACKEND_PROTO_H1:
		return route.H1
	case mcproxyv1.BackendProto_BACKEND_PROTO_H2:
		return route.H2
	case mcproxyv1.BackendProto_BACKEND_PROTO_H2C:
		return route.H2C
	}
	return route.Auto
}

func proxyTo(p route.ProxyOut) mcproxyv1.ProxyOut {
	switch p {
	case route.ProxyV1:
		return mcproxyv1.ProxyOut_PROXY_OUT_V1
	case route.ProxyV2:
		return mcproxyv1.ProxyOut_PROXY_OUT_V2
	}
	return mcproxyv1.ProxyOut_PROXY_OUT_NONE
}

func proxyFrom(p mcproxyv1.ProxyOut) route.ProxyOut {
	switch p {
	case mcproxyv1.ProxyOut_PROXY_OUT_V1:
		return route.ProxyV1
	case mcproxyv1.ProxyOut_PROXY_OUT_V2:
		return route.ProxyV2
	}
	return route.ProxyNone
}

func checkTo(k route.CheckKind) mcproxyv1.CheckKind {
	switch k {
	case route.CheckTLS:
		return mcproxyv1.CheckKind_CHECK_KIND_TLS
	case route.CheckHTTP:
		return mcproxyv1.CheckKind_CHECK_KIND_HTTP
	case route.CheckGRPC:
		return mcproxyv1.CheckKind_CHECK_KIND_GRPC
	case route.CheckNone:
		return mcproxyv1.CheckKind_CHECK_KIND_NONE
	}
	return mcproxyv1.CheckKind_CHECK_KIND_TCP
}

func checkFrom(k mcproxyv1.CheckKind) route.CheckKind {
	switch k {
	case mcproxyv1.CheckKind_CHECK_KIND_TLS:
		return route.CheckTLS
	case mcproxyv1.CheckKind_CHECK_KIND_HTTP:
		return route.CheckHTTP
	case mcproxyv1.CheckKind_CHECK_KIND_GRPC:
		return route.CheckGRPC
	case mcproxyv1.CheckKind_CHECK_KIND_NONE:
		return route.CheckNone
	}
	return route.CheckTCP
}

func durTo(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func timeTo(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func backendsFrom(in []*mcproxyv1.BackendSpec) []route.Backend {
	out := make([]route.Backend, 0, len(in))
	for _, b := range in {
		out = append(out, route.Backend{Addr: b.GetAddr(), Weight: weight(b.Weight)})
	}
	return out
}

func weight(w *int32) int {
	if w == nil {
		return 100
	}
	return int(*w)
}

func specFrom(s *mcproxyv1.RouteSpec) (route.Spec, error) {
	if s == nil {
		return route.Spec{}, fault.Field1("spec", "is missing")
	}
	mode, err := modeFrom(s.GetMode())
	if err != nil {
		return route.Spec{}, err
	}
	return route.Spec{
		Key:  route.Key{Listener: s.GetListener(), Hostname: s.GetHostname(), ALPN: s.GetAlpn()},
		Mode: mode, Proto: protoFrom(s.GetProto()), TLSCert: s.GetTlsCert(), TLSKey: s.GetTlsKey(),
		BackendTLS: s.GetBackendTls(), BackendName: s.GetBackendName(), ProxyOut: proxyFrom(s.GetProxyOut()), ProxyKey: s.GetProxyKey(),
		Check: route.Check{Kind: checkFrom(s.GetCheck().GetKind()), Path: s.GetCheck().GetPath(),
			Interval: s.GetCheck().GetInterval().AsDuration(), Timeout: s.GetCheck().GetTimeout().AsDuration()},
		Timeouts: route.Timeouts{Connect: s.GetTimeouts().GetConnect().AsDuration(), Idle: s.GetTimeouts().GetIdle().AsDuration(),
			ResponseHeader: s.GetTimeouts().GetResponseHeader().AsDuration()},
		HSTS: s.GetHsts().AsDuration(), Owner: s.GetOwner(), LeaseTTL: s.GetLeaseTtl().AsDuration(), Backends: backendsFrom(s.GetBackends()),
	}, nil
}

// SpecTo returns the message of a definition.
func SpecTo(s route.Spec) *mcproxyv1.RouteSpec {
	out := &mcproxyv1.RouteSpec{
		Listener: s.Listener, Hostname: s.Hostname, Alpn: s.ALPN, Mode: modeTo(s.Mode), Proto: protoTo(s.Proto),
		TlsCert: s.TLSCert, TlsKey: s.TLSKey, BackendTls: s.BackendTLS, BackendName: s.BackendName,
		ProxyOut: proxyTo(s.ProxyOut), ProxyKey: s.ProxyKey,
		Check: &mcproxyv1.Check{Kind: checkTo(s.Check.Kind), Path: s.Check.Path, Interval: durTo(s.Check.Interval), Timeout: durTo(s.Check.Timeout)},
		Hsts:  durTo(s.HSTS), Owner: s.Owner, LeaseTtl: durTo(s.LeaseTTL),
	}
	if s.Timeouts != (route.Timeouts{}) {
		out.Timeouts = &mcproxyv1.Timeouts{Connect: durTo(s.Timeouts.Connect), Idle: durTo(s.Timeouts.Idle), ResponseHeader: durTo(s.Timeouts.ResponseHeader)}
	}
	for _, b := range s.Backends {
		w := int32(b.Weight)
		out.Backends = append(out.Backends, &mcproxyv1.BackendSpec{Addr: b.Addr, Weight: &w})
	}
	return out
}

func refFrom(r *mcproxyv1.RouteRef) control.Ref {
	if r.GetId() != 0 {
		return control.Ref{ID: r.GetId()}
	}
	k := route.Key{Listener: r.GetListener(), Hostname: r.GetHostname(), ALPN: r.GetAlpn()}
	return control.Ref{Key: k}
}

func healthTo(h upstream.Health) mcproxyv1.BackendHealth {
	switch h {
	case upstream.Up:
		return mcproxyv1.BackendHealth_BACKEND_HEALTH_UP
	case upstream.Down:
		return mcproxyv1.BackendHealth_BACKEND_HEALTH_DOWN
	case upstream.Ejected:
		return mcproxyv1.BackendHealth_BACKEND_HEALTH_EJECTED
	}
	return mcproxyv1.BackendHealth_BACKEND_HEALTH_UNKNOWN
}

// routeTo returns the message of a route with what is known of it now.
func (s *Services) routeTo(snap *table.Snapshot, r *route.Route) *mcproxyv1.Route {
	out := &mcproxyv1.Route{Id: r.ID, Spec: SpecTo(r.Spec), Revision: r.Revision, LastOp: r.LastOp, CreatedBy: r.CreatedBy,
		State: mcproxyv1.RouteState_ROUTE_STATE_SERVING}
	live := snap.Live[r.ID]
	up := 0
	add := func(addr string, weight int, state mcproxyv1.BackendState, until time.Time) {
		b := &mcproxyv1.Backend{Addr: addr, Weight: int32(weight), State: state, DrainUntil: timeTo(until), Health: mcproxyv1.BackendHealth_BACKEND_HEALTH_UNKNOWN}
		if live != nil {
			if lb := live.Backend(addr); lb != nil {
				st := lb.State()
				b.Health, b.InFlight, b.LastError = healthTo(st.Health), int64(st.InFlight), st.LastError
			}
		}
		if state == mcproxyv1.BackendState_BACKEND_STATE_ACTIVE && (b.Health == mcproxyv1.BackendHealth_BACKEND_HEALTH_UP || b.Health == mcproxyv1.BackendHealth_BACKEND_HEALTH_UNKNOWN) {
			up++
		}
		out.Backends = append(out.Backends, b)
	}
	for _, b := range r.Spec.Backends {
		add(b.Addr, b.Weight, mcproxyv1.BackendState_BACKEND_STATE_ACTIVE, time.Time{})
	}
	for _, d := range r.Draining {
		add(d.Addr, 0, mcproxyv1.BackendState_BACKEND_STATE_DRAINING, d.Until)
	}
	if up == 0 {
		out.State = mcproxyv1.RouteState_ROUTE_STATE_DEGRADED
	}
	if h := r.Hold; h != nil {
		out.State = mcproxyv1.RouteState_ROUTE_STATE_HELD
		out.Hold = &mcproxyv1.HoldInfo{Op: h.Op, By: h.By, Until: timeTo(h.Until), MaxWait: durationpb.New(h.MaxWait), MaxQueued: int32(h.MaxQueued)}
		if live != nil {
			_, queued, _ := live.Gate.Counts()
			out.Hold.Queued = int32(queued)
		}
	}
	until, stale := s.Control.Lease(r)
	out.LeaseUntil, out.Stale = timeTo(until), stale
	if c := snap.Certs[r.ID]; c != nil {
		_, out.CertError, _ = c.Status()
	}
	return out
}

func (s *Services) routesTo(rs []*route.Route) []*mcproxyv1.Route {
	snap := s.Control.Snapshot()
	out := make([]*mcproxyv1.Route, 0, len(rs))
	for _, r := range rs {
		out = append(out, s.routeTo(snap, r))
	}
	return out
}
