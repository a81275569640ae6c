package master

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/pelletier/go-toml/v2"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/dialin"
)

// at returns what a call to a node needs: its connection, and a context that acts for the present caller there.
func (m *Master) at(ctx context.Context, node string) (context.Context, *grpc.ClientConn, error) {
	l, err := m.hub.link(node)
	if err != nil {
		return nil, nil, err
	}
	tok, err := m.tokens.token(ctx, node)
	if err != nil {
		return nil, nil, err
	}
	return dialin.WithToken(ctx, tok, auth.RequestID(ctx)), l.conn, nil
}

// unary passes one call on to a node.
func unary[Req, Res any](ctx context.Context, m *Master, node string, req *Req,
	call func(context.Context, *grpc.ClientConn, *Req) (*Res, error)) (*Res, error) {
	ctx, conn, err := m.at(ctx, node)
	if err != nil {
		return nil, err
	}
	return call(ctx, conn, req)
}

// stream passes one call with a stream of answers on to a node.
func stream[Req, Res any](m *Master, node string, req *Req, out grpc.ServerStreamingServer[Res],
	call func(context.Context, *grpc.ClientConn, *Req) (grpc.ServerStreamingClient[Res], error)) error {
	// The end of the caller's stream ends the node's: operations go on by themselves there.
	ctx, conn, err := m.at(out.Context(), node)
	if err != nil {
		return err
	}
	in, err := call(ctx, conn, req)
	if err != nil {
		return err
	}
	for {
		msg, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.Send(msg); err != nil {
			return err
		}
	}
}

// nameOf reads the name out of a definition, "" if there is none to read: the agent says what is wrong.
func nameOf(src *mcpv1.Source) string {
	var def struct {
		Name string `toml:"name"`
	}
	if err := toml.Unmarshal(src.GetDefinition(), &def); err != nil {
		return ""
	}
	return def.Name
}

// where returns the node of a service that exists.
func (m *Master) where(ctx context.Context, service string) (string, error) {
	node, known, err := m.find(ctx, service)
	if err != nil {
		return "", err
	}
	if !known {
		return "", fault.New(fault.NotFound, "there is no service %q", service).WithNext("mcp ps")
	}
	return node, nil
}

// find looks a service up: in the inventories, which are the truth, then among the placements.
func (m *Master) find(ctx context.Context, service string) (node string, known bool, err error) {
	nodes, err := m.store.Nodes(ctx)
	if err != nil {
		return "", false, err
	}
	for _, n := range nodes {
		inv, _ := m.hub.last(n.Name)
		if slices.ContainsFunc(inv.GetServices(), func(s *mcpv1.Service) bool { return s.GetName() == service }) {
			return n.Name, true, nil
		}
	}
	node, err = m.store.Placement(ctx, service)
	return node, node != "", err
}

// place returns the node a definition goes to: where the service is, else the ready node that runs least.
func (m *Master) place(ctx context.Context, service string) (string, error) {
	if service != "" {
		if node, known, err := m.find(ctx, service); err != nil || known {
			return node, err
		}
	}
	nodes, err := m.store.Nodes(ctx)
	if err != nil {
		return "", err
	}
	best, least := "", -1
	for _, n := range nodes {
		if n.Cordoned || m.state(n) != "ready" {
			continue
		}
		if _, err := m.hub.link(n.Name); err != nil {
			continue
		}
		inv, _ := m.hub.last(n.Name)
		if load := len(inv.GetServices()); least < 0 || load < least {
			best, least = n.Name, load
		}
	}
	if best == "" {
		return "", fault.New(fault.Unavailable, "no node is ready to take the service").WithReason("NO_NODE").WithNext("mcp node list")
	}
	return best, nil
}
