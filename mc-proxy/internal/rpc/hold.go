package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"metacircular.net/mcdsl/fault"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/control"
	"metacircular.net/mc-proxy/internal/upstream"
)

func (r *routes) Hold(req *mcproxyv1.HoldRequest, stream grpc.ServerStreamingServer[mcproxyv1.HoldResponse]) error {
	ctx := stream.Context()
	h := control.HoldRequest{Owner: req.GetOwner(), TakeOver: req.GetTakeOver(), MaxWait: req.GetMaxWait().AsDuration(),
		MaxQueued: int(req.GetMaxQueued()), TTL: req.GetTtl().AsDuration()}
	for _, it := range req.GetItems() {
		h.Refs = append(h.Refs, refFrom(it.GetRoute()))
		h.Revisions = append(h.Revisions, it.IfRevision)
	}
	cr := request(ctx, "Hold", req.GetIdempotencyKey(), req, func(res control.Result) proto.Message {
		return &mcproxyv1.HoldResponse{Routes: r.s.routesTo(res.Routes)}
	})
	raw, err := r.s.Control.Hold(ctx, cr, h)
	first, err := decode(raw, err, &mcproxyv1.HoldResponse{})
	if err != nil {
		return err
	}
	if err := stream.Send(first); err != nil {
		return err
	}
	held, err := r.s.Control.Resolve(h.Refs)
	if err != nil {
		return err
	}
	snap := r.s.Control.Snapshot()
	var live []*upstream.Route
	for _, rt := range held {
		if l := snap.Live[rt.ID]; l != nil {
			live = append(live, l)
		}
	}
	return r.watchHold(ctx, live, req.GetDrain().AsDuration(), stream)
}

// watchHold streams the work in flight until there is none. The hold itself goes on without it.
func (r *routes) watchHold(ctx context.Context, live []*upstream.Route, drain time.Duration, stream grpc.ServerStreamingServer[mcproxyv1.HoldResponse]) error {
	var deadline <-chan time.Time
	if drain > 0 {
		t := time.NewTimer(drain)
		defer t.Stop()
		deadline = t.C
	}
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	lastIn, lastQueued, cut := -1, -1, 0
	for {
		in, queued, open := 0, 0, false
		var changed <-chan struct{}
		for _, l := range live {
			n, q, ch := l.Gate.Counts()
			in, queued = in+n, queued+q
			open = open || !l.Gate.Held()
			changed = ch
		}
		if in == 0 || open {
			if open && in > 0 {
				return fault.New(fault.Conflict, "the hold ended while work was still in flight").WithReason("HOLD_ENDED")
			}
			return stream.Send(&mcproxyv1.HoldResponse{Queued: int64(queued), Quiet: true, Cut: int64(cut)})
		}
		if in != lastIn || queued != lastQueued {
			lastIn, lastQueued = in, queued
			if err := stream.Send(&mcproxyv1.HoldResponse{InFlight: int64(in), Queued: int64(queued), Cut: int64(cut)}); err != nil {
				return err
			}
		}
		if len(live) > 1 {
			changed = nil // the ticker looks at all of them
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-deadline:
			for _, l := range live {
				for _, b := range l.Backends() {
					cut += b.Cut()
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *routes) Release(ctx context.Context, req *mcproxyv1.ReleaseRequest) (*mcproxyv1.ReleaseResponse, error) {
	var refs []control.Ref
	for _, x := range req.GetRoutes() {
		refs = append(refs, refFrom(x))
	}
	cr := request(ctx, "Release", "", req, func(res control.Result) proto.Message {
		return &mcproxyv1.ReleaseResponse{Routes: r.s.routesTo(res.Routes), Generation: res.Generation}
	})
	raw, err := r.s.Control.Release(ctx, cr, refs, req.GetOp())
	return decode(raw, err, &mcproxyv1.ReleaseResponse{})
}
