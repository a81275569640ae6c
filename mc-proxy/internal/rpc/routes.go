package rpc

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/control"
	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/upstream"
)

// countEvery is how often a stream looks at in-flight work.
const countEvery = 250 * time.Millisecond

type routes struct {
	mcproxyv1.UnimplementedRouteServiceServer
	s *Services
}

// request describes a write for control; reply makes the message that is kept with the idempotency key.
func request(ctx context.Context, method, key string, msg proto.Message, reply func(control.Result) proto.Message) control.Request {
	req := control.Request{Caller: auth.From(ctx).String(), Method: method, Key: key}
	if key != "" {
		// Deterministic within one binary is enough: a retry comes within a day, and a mismatch is refused, not misread.
		req.Body, _ = proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	}
	if reply != nil {
		req.Reply = func(r control.Result) ([]byte, error) { return proto.Marshal(reply(r)) }
	}
	return req
}

func (r *routes) ListRoutes(_ context.Context, req *mcproxyv1.ListRoutesRequest) (*mcproxyv1.ListRoutesResponse, error) {
	p, err := page.Parse(req.GetPageSize(), req.GetPageToken(), "routes", req.GetListener(), req.GetHostname(), req.GetOwner())
	if err != nil {
		return nil, err
	}
	snap := r.s.Control.Snapshot()
	key := func(x *route.Route) []string { return []string{x.Spec.Listener, x.Spec.Hostname, x.Spec.ALPN} }
	var rows []*route.Route
	for _, x := range snap.Index.All() {
		k := x.Spec.Key
		switch {
		case req.GetListener() != "" && k.Listener != req.GetListener(), req.GetHostname() != "" && k.Hostname != req.GetHostname(),
			req.GetOwner() != "" && x.Spec.Owner != req.GetOwner():
			continue
		case !p.First() && slices.Compare(key(x), []string{p.After(0), p.After(1), p.After(2)}) <= 0:
			continue
		}
		if rows = append(rows, x); len(rows) == p.Limit() {
			break
		}
	}
	rows, next := page.Next(p, rows, key)
	out := &mcproxyv1.ListRoutesResponse{NextPageToken: next, Generation: snap.Generation}
	for _, x := range rows {
		out.Routes = append(out.Routes, r.s.routeTo(snap, x))
	}
	return out, nil
}

func (r *routes) GetRoute(_ context.Context, req *mcproxyv1.GetRouteRequest) (*mcproxyv1.GetRouteResponse, error) {
	snap := r.s.Control.Snapshot()
	rt := snap.Index.Get(req.GetId())
	if rt == nil {
		return nil, fault.New(fault.NotFound, "there is no route %d", req.GetId()).WithNext("mc-proxy route list")
	}
	return &mcproxyv1.GetRouteResponse{Route: r.s.routeTo(snap, rt)}, nil
}

func (r *routes) PutRoute(ctx context.Context, req *mcproxyv1.PutRouteRequest) (*mcproxyv1.PutRouteResponse, error) {
	spec, err := specFrom(req.GetSpec())
	if err != nil {
		return nil, err
	}
	cr := request(ctx, "PutRoute", req.GetIdempotencyKey(), req, func(res control.Result) proto.Message {
		out := &mcproxyv1.PutRouteResponse{Changed: res.Wrote}
		if rs := r.s.routesTo(res.Routes); len(rs) > 0 {
			out.Route = rs[0]
		}
		return out
	})
	raw, err := r.s.Control.Put(ctx, cr, spec, control.Guard{TakeOver: req.GetTakeOver(), IfRevision: req.IfRevision})
	return decode(raw, err, &mcproxyv1.PutRouteResponse{})
}

// decode turns the answer that was kept into its message.
func decode[M proto.Message](raw []byte, err error, out M) (M, error) {
	if err == nil {
		err = proto.Unmarshal(raw, out)
	}
	if err != nil {
		var zero M
		return zero, err
	}
	return out, nil
}

func (r *routes) DeleteRoute(ctx context.Context, req *mcproxyv1.DeleteRouteRequest) (*mcproxyv1.DeleteRouteResponse, error) {
	cr := request(ctx, "DeleteRoute", req.GetIdempotencyKey(), req, func(res control.Result) proto.Message {
		return &mcproxyv1.DeleteRouteResponse{Generation: res.Generation}
	})
	g := control.Guard{Owner: req.GetOwner(), TakeOver: req.GetTakeOver(), IfRevision: req.IfRevision}
	raw, err := r.s.Control.Delete(ctx, cr, req.GetId(), g, req.GetDrain().AsDuration())
	return decode(raw, err, &mcproxyv1.DeleteRouteResponse{})
}

func (r *routes) SetBackend(ctx context.Context, req *mcproxyv1.SetBackendRequest) (*mcproxyv1.SetBackendResponse, error) {
	cr := request(ctx, "SetBackend", req.GetIdempotencyKey(), req, func(res control.Result) proto.Message {
		out := &mcproxyv1.SetBackendResponse{}
		if rs := r.s.routesTo(res.Routes); len(rs) > 0 {
			out.Route = rs[0]
		}
		return out
	})
	g := control.Guard{Owner: req.GetOwner(), TakeOver: req.GetTakeOver(), IfRevision: req.IfRevision}
	raw, err := r.s.Control.SetBackend(ctx, cr, req.GetId(), route.Backend{Addr: req.GetAddr(), Weight: weight(req.Weight)}, g)
	return decode(raw, err, &mcproxyv1.SetBackendResponse{})
}

func (r *routes) DrainBackend(req *mcproxyv1.DrainBackendRequest, stream grpc.ServerStreamingServer[mcproxyv1.DrainBackendResponse]) error {
	ctx := stream.Context()
	limit := req.GetDeadline().AsDuration()
	if limit <= 0 {
		limit = r.s.DrainTimeout
	}
	addr, err := route.NormaliseAddr(req.GetAddr())
	if err != nil {
		return err
	}
	// The backend is looked up before it can be forgotten.
	var b *upstream.Backend
	if live := r.s.Control.Snapshot().Live[req.GetId()]; live != nil {
		b = live.Backend(addr)
	}
	until := r.s.Now().Add(limit)
	g := control.Guard{Owner: req.GetOwner(), TakeOver: req.GetTakeOver()}
	known, err := r.s.Control.StartDrain(ctx, request(ctx, "DrainBackend", "", req, nil), req.GetId(), addr, until, g)
	if err != nil {
		return err
	}
	if !known || b == nil {
		return stream.Send(&mcproxyv1.DrainBackendResponse{Done: true})
	}
	// The backend cuts by itself at the deadline, whether anybody watches or not.
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	last, before := -1, b.Cuts()
	cut := func() int64 { return int64(b.Cuts() - before) }
	for {
		if n := b.InFlight(); n != last {
			last = n
			if err := stream.Send(&mcproxyv1.DrainBackendResponse{InFlight: int64(n), Cut: cut()}); err != nil {
				return err
			}
		}
		select {
		case <-b.Idle():
			return stream.Send(&mcproxyv1.DrainBackendResponse{Done: true, Cut: cut()})
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err() // the drain goes on, and its deadline holds
		}
	}
}

func (r *routes) Swap(req *mcproxyv1.SwapRequest, stream grpc.ServerStreamingServer[mcproxyv1.SwapResponse]) error {
	ctx := stream.Context()
	sw := control.Swap{Owner: req.GetOwner(), TakeOver: req.GetTakeOver(), ReleaseHold: req.GetReleaseHold(),
		Drain: req.GetDrain().AsDuration(), WaitHealthy: req.GetWaitHealthy().AsDuration()}
	for i, it := range req.GetItems() {
		item := control.Item{Ref: refFrom(it.GetRoute()), IfRevision: it.IfRevision}
		switch c := it.GetChange().(type) {
		case *mcproxyv1.SwapItem_Backends:
			item.Backends = backendsFrom(c.Backends.GetBackends())
		case *mcproxyv1.SwapItem_Definition:
			spec, err := specFrom(c.Definition)
			if err != nil {
				return err
			}
			item.Definition = &spec
		case *mcproxyv1.SwapItem_Removal:
			item.Remove = true
		default:
			return fault.Field1("items", "item %d says neither backends, definition nor removal", i)
		}
		if item.Ref == (control.Ref{}) && item.Definition == nil {
			return fault.Field1("items", "item %d names no route", i)
		}
		sw.Items = append(sw.Items, item)
	}
	sw.Probe = func(addr string, err error) {
		p := &mcproxyv1.ProbeResult{Addr: addr, Healthy: err == nil}
		if err != nil {
			p.Error = err.Error()
		}
		_ = stream.Send(&mcproxyv1.SwapResponse{Event: &mcproxyv1.SwapResponse_Probe{Probe: p}}) // a caller that left shows in ctx
	}
	cr := request(ctx, "Swap", req.GetIdempotencyKey(), req, func(res control.Result) proto.Message {
		out := &mcproxyv1.SwapCommitted{Generation: res.Generation, Routes: r.s.routesTo(res.Routes), RemovedIds: res.Removed}
		snap := r.s.Control.Snapshot()
		for _, l := range res.Draining {
			d := &mcproxyv1.DrainingBackend{RouteId: l.RouteID, Addr: l.Addr}
			if live := snap.Live[l.RouteID]; live != nil && live.Backend(l.Addr) != nil {
				d.InFlight = int64(live.Backend(l.Addr).InFlight())
			}
			out.Draining = append(out.Draining, d)
		}
		return out
	})
	raw, err := r.s.Control.Swap(ctx, cr, sw)
	committed, err := decode(raw, err, &mcproxyv1.SwapCommitted{})
	if err != nil {
		return err
	}
	return stream.Send(&mcproxyv1.SwapResponse{Event: &mcproxyv1.SwapResponse_Committed{Committed: committed}})
}

func (r *routes) RenewLease(_ context.Context, req *mcproxyv1.RenewLeaseRequest) (*mcproxyv1.RenewLeaseResponse, error) {
	if req.GetOwner() == "" {
		return nil, fault.Field1("owner", "is missing")
	}
	return &mcproxyv1.RenewLeaseResponse{Routes: int32(r.s.Control.RenewLease(req.GetOwner()))}, nil
}

func (r *routes) WatchRoutes(req *mcproxyv1.WatchRoutesRequest, stream grpc.ServerStreamingServer[mcproxyv1.WatchRoutesResponse]) error {
	seen := map[int64]*route.Route{}
	for first := true; ; first = false {
		changed := r.s.Control.Changed()
		snap := r.s.Control.Snapshot()
		out := &mcproxyv1.WatchRoutesResponse{Generation: snap.Generation}
		now := map[int64]*route.Route{}
		for _, x := range snap.Index.All() {
			if req.GetOwner() != "" && x.Spec.Owner != req.GetOwner() {
				continue
			}
			now[x.ID] = x
			if seen[x.ID] != x {
				out.Changed = append(out.Changed, r.s.routeTo(snap, x))
			}
		}
		for id := range seen {
			if now[id] == nil {
				out.RemovedIds = append(out.RemovedIds, id)
			}
		}
		seen = now
		if first || len(out.Changed) > 0 || len(out.RemovedIds) > 0 {
			if err := stream.Send(out); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
