// Package proxy moves traffic through this node's MC-Proxy, over its Unix socket: the deploy package's Router.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/deploy"
)

// owner marks MCP's routes; those of others are never touched.
const owner = "mcp"

const listPage = 500

// Client is a deploy.Router. Safe for concurrent use.
type Client struct {
	routes mcproxyv1.RouteServiceClient
	hopKey string // as MC-Proxy sees the file
}

// New uses a connection to MC-Proxy's socket. hopKey is the file of the node's hop key in MC-Proxy's own folder.
func New(conn grpc.ClientConnInterface, hopKey string) *Client {
	return &Client{routes: mcproxyv1.NewRouteServiceClient(conn), hopKey: hopKey}
}

func key(listener, host string) string { return listener + " " + host }

// load returns our and others' routes by listener and host.
func (c *Client) load(ctx context.Context) (map[string]*mcproxyv1.Route, error) {
	out := map[string]*mcproxyv1.Route{}
	for token := ""; ; {
		resp, err := c.routes.ListRoutes(ctx, &mcproxyv1.ListRoutesRequest{PageSize: listPage, PageToken: token})
		if err != nil {
			return nil, fmt.Errorf("ask MC-Proxy for its routes: %w", err)
		}
		for _, r := range resp.GetRoutes() {
			if r.GetSpec().GetAlpn() == "" {
				out[key(r.GetSpec().GetListener(), r.GetSpec().GetHostname())] = r
			}
		}
		if token = resp.GetNextPageToken(); token == "" {
			return out, nil
		}
	}
}

func (c *Client) spec(t deploy.Target) *mcproxyv1.RouteSpec {
	s := &mcproxyv1.RouteSpec{
		Listener: t.Listener, Hostname: t.Host, Owner: owner, Mode: mcproxyv1.RouteMode_ROUTE_MODE_L4, ProxyOut: mcproxyv1.ProxyOut_PROXY_OUT_NONE,
		Backends: []*mcproxyv1.BackendSpec{{Addr: t.Backend}},
	}
	switch {
	case t.Mode == "l7":
		s.Mode, s.Proto = mcproxyv1.RouteMode_ROUTE_MODE_L7, mcproxyv1.BackendProto_BACKEND_PROTO_AUTO
		s.TlsCert, s.TlsKey = t.CertFile+".pem", t.CertFile+".key"
	case t.Core:
		s.ProxyOut, s.ProxyKey = mcproxyv1.ProxyOut_PROXY_OUT_V2, c.hopKey
	}
	return s
}

// Swap applies a set of routes on the revisions it reads first.
func (c *Client) Swap(ctx context.Context, opKey string, put, remove []deploy.Target, releaseHold bool) error {
	have, err := c.load(ctx)
	if err != nil {
		return err
	}
	req := &mcproxyv1.SwapRequest{IdempotencyKey: opKey, Owner: owner, ReleaseHold: releaseHold}
	for _, t := range put {
		item := &mcproxyv1.SwapItem{Change: &mcproxyv1.SwapItem_Definition{Definition: c.spec(t)}}
		if r := have[key(t.Listener, t.Host)]; r != nil {
			if r.GetSpec().GetOwner() != owner {
				return fault.New(fault.Exists, "route %s belongs to %s", t.Host, r.GetSpec().GetOwner()).WithNext("mc-proxy route show %d", r.GetId())
			}
			rev := r.GetRevision()
			item.IfRevision, item.Route = &rev, &mcproxyv1.RouteRef{Id: r.GetId()}
		}
		req.Items = append(req.Items, item)
	}
	for _, t := range remove {
		r := have[key(t.Listener, t.Host)]
		if r == nil || r.GetSpec().GetOwner() != owner {
			continue
		}
		rev := r.GetRevision()
		req.Items = append(req.Items, &mcproxyv1.SwapItem{Route: &mcproxyv1.RouteRef{Id: r.GetId()}, IfRevision: &rev, Change: &mcproxyv1.SwapItem_Removal{Removal: &mcproxyv1.Removal{}}})
	}
	if len(req.GetItems()) == 0 {
		return nil
	}
	stream, err := c.routes.Swap(ctx, req)
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fault.New(fault.Unavailable, "MC-Proxy ended the swap without saying that it is in force")
		}
		if err != nil {
			return fmt.Errorf("switch routes: %w", err)
		}
		if m.GetCommitted() != nil {
			return nil
		}
	}
}

// Switched reports whether the swap of this key was the last one of all these routes.
func (c *Client) Switched(ctx context.Context, opKey string, routes []deploy.Target) (bool, error) {
	have, err := c.load(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range routes {
		r := have[key(t.Listener, t.Host)]
		if r == nil || r.GetLastOp() != opKey {
			return false, nil
		}
	}
	return len(routes) > 0, nil
}

// Hold makes requests to these routes wait, and returns when those in flight are done or at a third of the limit.
func (c *Client) Hold(ctx context.Context, opKey string, routes []deploy.Target, limit time.Duration) error {
	have, err := c.load(ctx)
	if err != nil {
		return err
	}
	req := &mcproxyv1.HoldRequest{IdempotencyKey: opKey, Owner: owner, MaxWait: durationpb.New(limit), Ttl: durationpb.New(2 * limit), Drain: durationpb.New(limit / 3)}
	for _, t := range routes {
		r := have[key(t.Listener, t.Host)]
		if r == nil {
			continue
		}
		rev := r.GetRevision()
		req.Items = append(req.Items, &mcproxyv1.HoldItem{Route: &mcproxyv1.RouteRef{Id: r.GetId()}, IfRevision: &rev})
	}
	if len(req.GetItems()) == 0 {
		return nil
	}
	stream, err := c.routes.Hold(ctx, req)
	if err != nil {
		return fmt.Errorf("hold routes: %w", err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || (err == nil && m.GetQuiet()) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("hold routes: %w", err)
		}
	}
}

// Release ends a hold.
func (c *Client) Release(ctx context.Context, opKey string, routes []deploy.Target) error {
	req := &mcproxyv1.ReleaseRequest{Op: opKey}
	for _, t := range routes {
		req.Routes = append(req.Routes, &mcproxyv1.RouteRef{Listener: t.Listener, Hostname: t.Host})
	}
	if len(req.GetRoutes()) == 0 {
		return nil
	}
	_, err := c.routes.Release(ctx, req)
	return err
}

// Drain waits until a former backend of a route serves nobody. A route or backend that is gone serves nobody.
func (c *Client) Drain(ctx context.Context, t deploy.Target, deadline time.Duration) error {
	have, err := c.load(ctx)
	if err != nil {
		return err
	}
	r := have[key(t.Listener, t.Host)]
	if r == nil {
		return nil
	}
	stream, err := c.routes.DrainBackend(ctx, &mcproxyv1.DrainBackendRequest{Id: r.GetId(), Addr: t.Backend, Deadline: durationpb.New(deadline), Owner: owner})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || fault.Is(err, fault.NotFound) || (err == nil && m.GetDone()) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
