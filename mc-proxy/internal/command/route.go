package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
)

// guard are the flags of a write.
type guard struct {
	revision string
	key      string
	owner    string
	takeOver bool
}

func (g *guard) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&g.revision, "if-revision", "", "write only if the route is at this revision; 0: only if it does not exist")
	cmd.Flags().StringVar(&g.key, "key", "", "idempotency key: the same write with the same key happens once")
	cmd.Flags().StringVar(&g.owner, "owner", "operator", "who owns the route")
	cmd.Flags().BoolVar(&g.takeOver, "take-over", false, "write over another owner's route")
}

func (g *guard) rev() (*int64, error) {
	if g.revision == "" {
		return nil, nil //nolint:nilnil // absent is a value here: an unconditional write
	}
	n, err := strconv.ParseInt(g.revision, 10, 64)
	if err != nil || n < 0 {
		return nil, fault.Field1("if-revision", "%q is no revision", g.revision)
	}
	return &n, nil
}

func (c *client) route() *cobra.Command {
	return group("route", "Show and change routes", c.routeList(), c.routeShow(), c.routePut(), c.routeDelete(), c.routeSwap(),
		c.routeHold(), c.routeRelease(), c.routeWatch())
}

// all lists every route.
func (c *client) all(ctx context.Context, req *mcproxyv1.ListRoutesRequest) ([]*mcproxyv1.Route, error) {
	cl, err := c.routes()
	if err != nil {
		return nil, err
	}
	var out []*mcproxyv1.Route
	req.PageSize = 500
	for {
		resp, err := cl.ListRoutes(ctx, req)
		if err != nil {
			return nil, err
		}
		out = append(out, resp.GetRoutes()...)
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			return out, nil
		}
	}
}

// find returns the route that a person names: an id, listener/hostname, or a hostname that only one listener has.
func (c *client) find(ctx context.Context, name string) (*mcproxyv1.Route, error) {
	rs, err := c.all(ctx, &mcproxyv1.ListRoutesRequest{})
	if err != nil {
		return nil, err
	}
	var hits []*mcproxyv1.Route
	for _, r := range rs {
		if strconv.FormatInt(r.GetId(), 10) == name || key(r.GetSpec()) == name {
			return r, nil
		}
		if r.GetSpec().GetHostname() == name {
			hits = append(hits, r)
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return nil, fault.New(fault.NotFound, "there is no route %s", name).WithNext("mc-proxy route list")
	}
	names := make([]string, 0, len(hits))
	for _, r := range hits {
		names = append(names, key(r.GetSpec()))
	}
	return nil, fault.New(fault.Invalid, "%s is ambiguous", name).WithNext("say which: %s", strings.Join(names, ", "))
}

func backendsText(r *mcproxyv1.Route) string {
	parts := make([]string, 0, len(r.GetBackends()))
	for _, b := range r.GetBackends() {
		t := b.GetAddr()
		switch {
		case b.GetState() == mcproxyv1.BackendState_BACKEND_STATE_DRAINING:
			t += " (draining)"
		case b.GetHealth() == mcproxyv1.BackendHealth_BACKEND_HEALTH_DOWN, b.GetHealth() == mcproxyv1.BackendHealth_BACKEND_HEALTH_EJECTED:
			t += " (" + word(b.GetHealth().String(), "BACKEND_HEALTH_") + ")"
		}
		parts = append(parts, t)
	}
	return strings.Join(parts, ", ")
}

func word(enum, prefix string) string { return strings.ToLower(strings.TrimPrefix(enum, prefix)) }

func stateText(r *mcproxyv1.Route) string {
	s := word(r.GetState().String(), "ROUTE_STATE_")
	if r.GetStale() {
		s += ", stale"
	}
	if r.GetCertError() != "" {
		s += ", cert_error"
	}
	return s
}

func (c *client) routeList() *cobra.Command {
	var req mcproxyv1.ListRoutesRequest
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List routes", Args: cobra.NoArgs,
		Example: "  mc-proxy route list\n  mc-proxy route list --owner mcp --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			rs, err := c.all(cmd.Context(), &req)
			if err != nil {
				return err
			}
			t := &cli.Table{Head: []string{"ROUTE", "MODE", "STATE", "BACKENDS", "OWNER", ">REVISION"}, Empty: "No routes.", Foot: plural(len(rs), "route")}
			for _, r := range rs {
				t.Row(key(r.GetSpec()), word(r.GetSpec().GetMode().String(), "ROUTE_MODE_"), stateText(r), backendsText(r), r.GetSpec().GetOwner(), strconv.FormatInt(r.GetRevision(), 10))
			}
			return c.e.EmitTable(&mcproxyv1.ListRoutesResponse{Routes: rs}, t)
		}}
	cmd.Flags().StringVar(&req.Listener, "listener", "", "only of this listener")
	cmd.Flags().StringVar(&req.Hostname, "hostname", "", "only with this hostname")
	cmd.Flags().StringVar(&req.Owner, "owner", "", "only of this owner")
	return cmd
}

func (c *client) routeShow() *cobra.Command {
	return &cobra.Command{Use: "show ROUTE", Short: "Show a route with its backends", Args: cobra.ExactArgs(1),
		Example: "  mc-proxy route show https/blog.mc.localhost\n  mc-proxy route show 7",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.e.Emit(r, func(w io.Writer) { printRoute(w, r) })
		}}
}

func printRoute(w io.Writer, r *mcproxyv1.Route) {
	s := r.GetSpec()
	line := func(k, format string, args ...any) {
		_, _ = fmt.Fprintf(w, "%-12s %s\n", k, fmt.Sprintf(format, args...))
	}
	line("route", "%s (%d), %s, owner %s", key(s), r.GetId(), word(s.GetMode().String(), "ROUTE_MODE_"), s.GetOwner())
	line("state", "%s, revision %d", stateText(r), r.GetRevision())
	if r.GetLastOp() != "" {
		line("last swap", "%s", r.GetLastOp())
	}
	if s.GetTlsCert() != "" {
		line("certificate", "%s %s", s.GetTlsCert(), r.GetCertError())
	}
	if p := s.GetProxyOut(); p == mcproxyv1.ProxyOut_PROXY_OUT_V1 || p == mcproxyv1.ProxyOut_PROXY_OUT_V2 {
		hop := ""
		if s.GetProxyKey() != "" {
			hop = " with hop key"
		}
		line("proxy out", "%s%s", word(p.String(), "PROXY_OUT_"), hop)
	}
	line("check", "%s %s", word(s.GetCheck().GetKind().String(), "CHECK_KIND_"), s.GetCheck().GetPath())
	if h := r.GetHold(); h != nil {
		line("held", "by %s until %s, %d waiting", h.GetBy(), h.GetUntil().AsTime().Format(time.RFC3339), h.GetQueued())
	}
	if r.GetLeaseUntil() != nil {
		line("lease", "until %s", r.GetLeaseUntil().AsTime().Format(time.RFC3339))
	}
	for _, b := range r.GetBackends() {
		line("backend", "%s %s, %s, weight %d, %d in flight %s", b.GetAddr(), word(b.GetState().String(), "BACKEND_STATE_"),
			word(b.GetHealth().String(), "BACKEND_HEALTH_"), b.GetWeight(), b.GetInFlight(), b.GetLastError())
	}
}

// specFlags are the fields of a definition.
type specFlags struct {
	mode, proto, cert, key, backendName, proxyOut, proxyKey, alpn, check, checkPath string
	backendTLS                                                                      bool
	backends                                                                        []string
	hsts, lease                                                                     time.Duration
}

func (f *specFlags) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.mode, "mode", "l4", "l4: pass TLS on, l7: end it here")
	fl.StringSliceVar(&f.backends, "backend", nil, "host:port, or host:port=WEIGHT; may be repeated")
	fl.StringVar(&f.alpn, "alpn", "", "only clients that offer this protocol")
	fl.StringVar(&f.cert, "cert", "", "certificate file inside cert_dir")
	fl.StringVar(&f.key, "tls-key", "", "key file inside cert_dir; empty: the certificate's file holds both")
	fl.StringVar(&f.proto, "proto", "auto", "to the backend: auto, h1, h2, h2c")
	fl.BoolVar(&f.backendTLS, "backend-tls", false, "speak TLS to the backend")
	fl.StringVar(&f.backendName, "backend-name", "", "name verified with --backend-tls")
	fl.StringVar(&f.proxyOut, "proxy-out", "none", "PROXY header to the backend: none, v1, v2")
	fl.StringVar(&f.proxyKey, "proxy-key", "", "file with the hop key")
	fl.StringVar(&f.check, "check", "tcp", "tcp, tls, http, grpc, none")
	fl.StringVar(&f.checkPath, "check-path", "", "path of an http check")
	fl.DurationVar(&f.hsts, "hsts", 0, "Strict-Transport-Security max-age")
	fl.DurationVar(&f.lease, "lease", 0, "mark the route stale when its owner does not renew within this time")
}

// enum finds an enum's value by the word people write.
func enum(values map[string]int32, prefix, flag, text string) (int32, error) {
	if v, ok := values[prefix+strings.ToUpper(text)]; ok && text != "unspecified" {
		return v, nil
	}
	return 0, fault.Field1(flag, "%q is not known", text)
}

func parseBackends(in []string) ([]*mcproxyv1.BackendSpec, error) {
	var out []*mcproxyv1.BackendSpec
	for _, b := range in {
		addr, w, ok := strings.Cut(b, "=")
		spec := &mcproxyv1.BackendSpec{Addr: addr}
		if ok {
			n, err := strconv.ParseInt(w, 10, 32)
			if err != nil {
				return nil, fault.Field1("backend", "%q is no weight", w)
			}
			weight := int32(n)
			spec.Weight = &weight
		}
		out = append(out, spec)
	}
	return out, nil
}

func (f *specFlags) spec(name, owner string) (*mcproxyv1.RouteSpec, error) {
	listener, host, ok := strings.Cut(name, "/")
	if !ok {
		listener, host = "https", name
	}
	mode, err := enum(mcproxyv1.RouteMode_value, "ROUTE_MODE_", "mode", f.mode)
	if err != nil {
		return nil, err
	}
	proto, err := enum(mcproxyv1.BackendProto_value, "BACKEND_PROTO_", "proto", f.proto)
	if err != nil {
		return nil, err
	}
	out, err := enum(mcproxyv1.ProxyOut_value, "PROXY_OUT_", "proxy-out", f.proxyOut)
	if err != nil {
		return nil, err
	}
	check, err := enum(mcproxyv1.CheckKind_value, "CHECK_KIND_", "check", f.check)
	if err != nil {
		return nil, err
	}
	backends, err := parseBackends(f.backends)
	if err != nil {
		return nil, err
	}
	s := &mcproxyv1.RouteSpec{Listener: listener, Hostname: host, Alpn: f.alpn, Mode: mcproxyv1.RouteMode(mode), Proto: mcproxyv1.BackendProto(proto),
		TlsCert: f.cert, TlsKey: f.key, BackendTls: f.backendTLS, BackendName: f.backendName, ProxyOut: mcproxyv1.ProxyOut(out), ProxyKey: f.proxyKey,
		Check: &mcproxyv1.Check{Kind: mcproxyv1.CheckKind(check), Path: f.checkPath}, Owner: owner, Backends: backends}
	if f.hsts > 0 {
		s.Hsts = durationpb.New(f.hsts)
	}
	if f.lease > 0 {
		s.LeaseTtl = durationpb.New(f.lease)
	}
	return s, nil
}

func (c *client) routePut() *cobra.Command {
	var g guard
	var f specFlags
	cmd := &cobra.Command{Use: "put [LISTENER/]HOSTNAME --backend ADDR", Short: "State a whole route", Args: cobra.ExactArgs(1),
		Example: "  mc-proxy route put blog.mc.localhost --backend 127.0.0.1:28004\n  mc-proxy route put https/app.mc.localhost --mode l7 --cert app.pem --backend 127.0.0.1:8080",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := f.spec(args[0], g.owner)
			if err != nil {
				return err
			}
			rev, err := g.rev()
			if err != nil {
				return err
			}
			cl, err := c.routes()
			if err != nil {
				return err
			}
			resp, err := cl.PutRoute(cmd.Context(), &mcproxyv1.PutRouteRequest{Spec: spec, IfRevision: rev, IdempotencyKey: g.key, TakeOver: g.takeOver})
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) {
				if !resp.GetChanged() {
					_, _ = fmt.Fprintf(w, "%s: nothing to do, revision %d\n", key(spec), resp.GetRoute().GetRevision())
					return
				}
				_, _ = fmt.Fprintf(w, "%s: revision %d\n", key(resp.GetRoute().GetSpec()), resp.GetRoute().GetRevision())
			})
		}}
	g.flags(cmd)
	f.flags(cmd)
	return cmd
}

func (c *client) routeDelete() *cobra.Command {
	var g guard
	var drain time.Duration
	cmd := &cobra.Command{Use: "delete ROUTE", Aliases: []string{"rm"}, Short: "Remove a route; its connections stay unless --drain", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			rev, err := g.rev()
			if err != nil {
				return err
			}
			if err := c.e.Confirm("Remove route " + key(r.GetSpec())); err != nil {
				return err
			}
			cl, err := c.routes()
			if err != nil {
				return err
			}
			req := &mcproxyv1.DeleteRouteRequest{Id: r.GetId(), IfRevision: rev, IdempotencyKey: g.key, Owner: g.owner, TakeOver: g.takeOver}
			if drain > 0 {
				req.Drain = durationpb.New(drain)
			}
			resp, err := cl.DeleteRoute(cmd.Context(), req)
			if err != nil {
				return err
			}
			return c.e.Emit(resp, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s removed, generation %d\n", key(r.GetSpec()), resp.GetGeneration())
			})
		}}
	g.flags(cmd)
	cmd.Flags().DurationVar(&drain, "drain", 0, "close what is left of its connections after this time")
	return cmd
}

func (c *client) routeWatch() *cobra.Command {
	var owner string
	cmd := &cobra.Command{Use: "watch", Short: "Print routes as they change, until interrupted", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.routes()
			if err != nil {
				return err
			}
			stream, err := cl.WatchRoutes(cmd.Context(), &mcproxyv1.WatchRoutesRequest{Owner: owner})
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
				for _, r := range ev.GetChanged() {
					_, _ = fmt.Fprintf(c.e.Out, "%d  %s  %s  %s\n", ev.GetGeneration(), key(r.GetSpec()), stateText(r), backendsText(r))
				}
				for _, id := range ev.GetRemovedIds() {
					_, _ = fmt.Fprintf(c.e.Out, "%d  route %d removed\n", ev.GetGeneration(), id)
				}
			}
		}}
	cmd.Flags().StringVar(&owner, "owner", "", "only of this owner")
	return cmd
}
