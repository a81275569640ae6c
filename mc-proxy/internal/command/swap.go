package command

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"metacircular.net/mcdsl/fault"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
)

func dur(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func (c *client) routeSwap() *cobra.Command {
	var g guard
	var backends []string
	var wait, drain time.Duration
	var release bool
	cmd := &cobra.Command{Use: "swap ROUTE... --backend ADDR", Short: "Give a set of routes new backends in one step or not at all", Args: cobra.MinimumNArgs(1),
		Example: "  mc-proxy route swap blog.mc.localhost --backend 127.0.0.1:28005 --wait-healthy 30s --drain 30s",
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := parseBackends(backends)
			if err != nil {
				return err
			}
			if len(set) == 0 {
				return fault.Field1("backend", "say at least one")
			}
			rev, err := g.rev()
			if err != nil {
				return err
			}
			req := &mcproxyv1.SwapRequest{IdempotencyKey: g.key, WaitHealthy: dur(wait), Drain: dur(drain), ReleaseHold: release, Owner: g.owner, TakeOver: g.takeOver}
			for _, name := range args {
				r, err := c.find(cmd.Context(), name)
				if err != nil {
					return err
				}
				item := &mcproxyv1.SwapItem{Route: &mcproxyv1.RouteRef{Id: r.GetId()}, IfRevision: rev, Change: &mcproxyv1.SwapItem_Backends{Backends: &mcproxyv1.Backends{Backends: set}}}
				if rev == nil { // what was seen is what is changed
					seen := r.GetRevision()
					item.IfRevision = &seen
				}
				req.Items = append(req.Items, item)
			}
			cl, err := c.routes()
			if err != nil {
				return err
			}
			stream, err := cl.Swap(cmd.Context(), req)
			if err != nil {
				return err
			}
			for {
				ev, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if c.e.JSON {
					if err := c.e.EmitLine(ev); err != nil {
						return err
					}
					continue
				}
				if p := ev.GetProbe(); p != nil {
					if p.GetHealthy() {
						c.e.Note("  healthy  %s", p.GetAddr())
					}
					continue
				}
				done := ev.GetCommitted()
				for _, r := range done.GetRoutes() {
					_, _ = fmt.Fprintf(c.e.Out, "%s: %s, revision %d\n", key(r.GetSpec()), backendsText(r), r.GetRevision())
				}
				for _, d := range done.GetDraining() {
					c.e.Note("  draining %s, %d in flight", d.GetAddr(), d.GetInFlight())
				}
			}
		}}
	g.flags(cmd)
	cmd.Flags().StringSliceVar(&backends, "backend", nil, "host:port, or host:port=WEIGHT; may be repeated")
	cmd.Flags().DurationVar(&wait, "wait-healthy", 0, "probe the new backends first, at most this long")
	cmd.Flags().DurationVar(&drain, "drain", 0, "close what is left on the old ones after this time")
	cmd.Flags().BoolVar(&release, "release", false, "end the holds of these routes with the same step")
	return cmd
}

func (c *client) refs(cmd *cobra.Command, args []string) ([]*mcproxyv1.RouteRef, error) {
	var out []*mcproxyv1.RouteRef
	for _, name := range args {
		r, err := c.find(cmd.Context(), name)
		if err != nil {
			return nil, err
		}
		out = append(out, &mcproxyv1.RouteRef{Id: r.GetId()})
	}
	return out, nil
}

func (c *client) routeHold() *cobra.Command {
	var g guard
	var maxWait, ttl, drain time.Duration
	var queued int32
	cmd := &cobra.Command{Use: "hold ROUTE...", Short: "Let new work on routes wait, bounded", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, err := c.refs(cmd, args)
			if err != nil {
				return err
			}
			rev, err := g.rev()
			if err != nil {
				return err
			}
			req := &mcproxyv1.HoldRequest{IdempotencyKey: g.key, MaxWait: dur(maxWait), MaxQueued: queued, Ttl: dur(ttl), Drain: dur(drain), Owner: g.owner, TakeOver: g.takeOver}
			for _, r := range refs {
				req.Items = append(req.Items, &mcproxyv1.HoldItem{Route: r, IfRevision: rev})
			}
			cl, err := c.routes()
			if err != nil {
				return err
			}
			stream, err := cl.Hold(cmd.Context(), req)
			if err != nil {
				return err
			}
			for {
				ev, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				switch {
				case c.e.JSON:
					if err := c.e.EmitLine(ev); err != nil {
						return err
					}
				case ev.GetQuiet():
					_, _ = fmt.Fprintf(c.e.Out, "held, nothing in flight\n")
				case len(ev.GetRoutes()) == 0:
					c.e.Note("  %d in flight, %d waiting", ev.GetInFlight(), ev.GetQueued())
				}
			}
		}}
	g.flags(cmd)
	cmd.Flags().DurationVar(&maxWait, "max-wait", 0, "how long one request waits (default 30s)")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "the hold ends by itself (default 60s)")
	cmd.Flags().DurationVar(&drain, "drain", 0, "close running work after this time")
	cmd.Flags().Int32Var(&queued, "max-queued", 0, "waiters a route (default 1024)")
	return cmd
}

func (c *client) routeRelease() *cobra.Command {
	var op string
	cmd := &cobra.Command{Use: "release ROUTE...", Short: "End the hold of routes", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			refs, err := c.refs(cmd, args)
			if err != nil {
				return err
			}
			cl, err := c.routes()
			if err != nil {
				return err
			}
			resp, err := cl.Release(cmd.Context(), &mcproxyv1.ReleaseRequest{Routes: refs, Op: op})
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) { _, _ = fmt.Fprintln(w, plural(len(resp.GetRoutes()), "route")+" released") })
		}}
	cmd.Flags().StringVar(&op, "op", "", "only a hold of this operation")
	return cmd
}

func (c *client) backend() *cobra.Command {
	var sg, dg guard
	var weight int32
	set := &cobra.Command{Use: "set ROUTE ADDR", Short: "Add a backend, change its weight, or take it back from draining", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rev, err := sg.rev()
			if err != nil {
				return err
			}
			cl, err := c.routes()
			if err != nil {
				return err
			}
			resp, err := cl.SetBackend(cmd.Context(), &mcproxyv1.SetBackendRequest{Id: r.GetId(), Addr: args[1], Weight: &weight, IfRevision: rev, Owner: sg.owner, TakeOver: sg.takeOver, IdempotencyKey: sg.key})
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) { printRoute(w, resp.GetRoute()) })
		}}
	sg.flags(set)
	set.Flags().Int32Var(&weight, "weight", 100, "0-100")
	var deadline time.Duration
	drain := &cobra.Command{Use: "drain ROUTE ADDR", Short: "Give a backend no new work and wait until it has none", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			cl, err := c.routes()
			if err != nil {
				return err
			}
			stream, err := cl.DrainBackend(cmd.Context(), &mcproxyv1.DrainBackendRequest{Id: r.GetId(), Addr: args[1], Deadline: dur(deadline), Owner: dg.owner, TakeOver: dg.takeOver})
			if err != nil {
				return err
			}
			for {
				ev, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				switch {
				case c.e.JSON:
					if err := c.e.EmitLine(ev); err != nil {
						return err
					}
				case ev.GetDone():
					_, _ = fmt.Fprintf(c.e.Out, "%s drained, %d cut\n", args[1], ev.GetCut())
				default:
					c.e.Note("  %d in flight", ev.GetInFlight())
				}
			}
		}}
	dg.flags(drain)
	drain.Flags().DurationVar(&deadline, "deadline", 0, "close the rest after this time (default drain_timeout)")
	return group("backend", "Change the backends of a route", set, drain)
}

func (c *client) lease() *cobra.Command {
	return group("lease", "Renew leases", &cobra.Command{Use: "renew OWNER", Short: "Renew the lease of every route of an owner", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.routes()
			if err != nil {
				return err
			}
			resp, err := cl.RenewLease(cmd.Context(), &mcproxyv1.RenewLeaseRequest{Owner: args[0]})
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) { _, _ = fmt.Fprintln(w, plural(int(resp.GetRoutes()), "route")+" renewed") })
		}})
}
