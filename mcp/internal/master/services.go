package master

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// services passes definitions and lifecycle calls on, and answers lists from the inventories.
type services struct {
	mcpv1.UnimplementedServicesServer
	*Master
}

func servicesAt(c *grpc.ClientConn) mcpv1.ServicesClient { return mcpv1.NewServicesClient(c) }

// Validate asks the node that would run it.
func (s services) Validate(ctx context.Context, req *mcpv1.ValidateRequest) (*mcpv1.ValidateResponse, error) {
	node, err := s.place(ctx, nameOf(req.GetSource()))
	if err != nil {
		return nil, err
	}
	return unary(ctx, s.Master, node, req, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.ValidateRequest) (*mcpv1.ValidateResponse, error) {
		return servicesAt(c).Validate(ctx, r)
	})
}

// Plan asks the node that would run it.
func (s services) Plan(ctx context.Context, req *mcpv1.PlanRequest) (*mcpv1.PlanResponse, error) {
	node, err := s.place(ctx, nameOf(req.GetSource()))
	if err != nil {
		return nil, err
	}
	return unary(ctx, s.Master, node, req, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.PlanRequest) (*mcpv1.PlanResponse, error) {
		return servicesAt(c).Plan(ctx, r)
	})
}

// Deploy remembers the placement before the node is asked, so that a repeated call meets the same node.
func (s services) Deploy(req *mcpv1.DeployRequest, out grpc.ServerStreamingServer[mcpv1.DeployResponse]) error {
	ctx, name := out.Context(), nameOf(req.GetSource())
	node, err := s.place(ctx, name)
	if err != nil {
		return err
	}
	if name != "" {
		if err := s.store.Place(ctx, name, node, s.clock.Now()); err != nil {
			return err
		}
	}
	return stream(s.Master, node, req, out, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.DeployRequest) (grpc.ServerStreamingClient[mcpv1.DeployResponse], error) {
		return servicesAt(c).Deploy(ctx, r)
	})
}

// Rollback passes on.
func (s services) Rollback(req *mcpv1.RollbackRequest, out grpc.ServerStreamingServer[mcpv1.RollbackResponse]) error {
	return lifecycle(s.Master, req.GetService(), req, out, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.RollbackRequest) (grpc.ServerStreamingClient[mcpv1.RollbackResponse], error) {
		return servicesAt(c).Rollback(ctx, r)
	})
}

// Start passes on.
func (s services) Start(req *mcpv1.StartRequest, out grpc.ServerStreamingServer[mcpv1.StartResponse]) error {
	return lifecycle(s.Master, req.GetService(), req, out, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.StartRequest) (grpc.ServerStreamingClient[mcpv1.StartResponse], error) {
		return servicesAt(c).Start(ctx, r)
	})
}

// Stop passes on.
func (s services) Stop(req *mcpv1.StopRequest, out grpc.ServerStreamingServer[mcpv1.StopResponse]) error {
	return lifecycle(s.Master, req.GetService(), req, out, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.StopRequest) (grpc.ServerStreamingClient[mcpv1.StopResponse], error) {
		return servicesAt(c).Stop(ctx, r)
	})
}

// Restart passes on.
func (s services) Restart(req *mcpv1.RestartRequest, out grpc.ServerStreamingServer[mcpv1.RestartResponse]) error {
	return lifecycle(s.Master, req.GetService(), req, out, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.RestartRequest) (grpc.ServerStreamingClient[mcpv1.RestartResponse], error) {
		return servicesAt(c).Restart(ctx, r)
	})
}

// Undeploy passes on, and forgets the placement when the node is done.
func (s services) Undeploy(req *mcpv1.UndeployRequest, out grpc.ServerStreamingServer[mcpv1.UndeployResponse]) error {
	err := lifecycle(s.Master, req.GetService(), req, out, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.UndeployRequest) (grpc.ServerStreamingClient[mcpv1.UndeployResponse], error) {
		return servicesAt(c).Undeploy(ctx, r)
	})
	if err != nil {
		return err
	}
	return s.store.Unplace(out.Context(), req.GetService())
}

func lifecycle[Req, Res any](m *Master, service string, req *Req, out grpc.ServerStreamingServer[Res],
	call func(context.Context, *grpc.ClientConn, *Req) (grpc.ServerStreamingClient[Res], error)) error {
	node, err := m.where(out.Context(), service)
	if err != nil {
		return err
	}
	return stream(m, node, req, out, call)
}

// GetService passes on: the definition is not in the inventory. While MCIAS is away it answers from the inventory.
func (s services) GetService(ctx context.Context, req *mcpv1.GetServiceRequest) (*mcpv1.GetServiceResponse, error) {
	node, err := s.where(ctx, req.GetService())
	if err != nil {
		return nil, err
	}
	resp, err := unary(ctx, s.Master, node, req, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.GetServiceRequest) (*mcpv1.GetServiceResponse, error) {
		return servicesAt(c).GetService(ctx, r)
	})
	if err == nil || !(fault.Is(err, fault.Unavailable) || fault.HasReason(err, "NO_TOKEN")) {
		return resp, err
	}
	inv, _ := s.hub.last(node)
	for _, svc := range inv.GetServices() {
		if svc.GetName() == req.GetService() {
			return &mcpv1.GetServiceResponse{Service: svc}, nil
		}
	}
	return nil, err
}

// ListServices answers from the nodes' inventories, read now where a node is connected.
func (s services) ListServices(ctx context.Context, req *mcpv1.ListServicesRequest) (*mcpv1.ListServicesResponse, error) {
	all, err := s.inventories(ctx)
	if err != nil {
		return nil, err
	}
	page, next, err := pageOf(all.services, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &mcpv1.ListServicesResponse{Services: page, NextPageToken: next}, nil
}

// History passes on.
func (s services) History(ctx context.Context, req *mcpv1.HistoryRequest) (*mcpv1.HistoryResponse, error) {
	node, err := s.where(ctx, req.GetService())
	if err != nil {
		return nil, err
	}
	return unary(ctx, s.Master, node, req, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.HistoryRequest) (*mcpv1.HistoryResponse, error) {
		return servicesAt(c).History(ctx, r)
	})
}

// everything is what all nodes said, merged.
type everything struct {
	nodes    []*mcpv1.NodeStatus
	services []*mcpv1.Service
	events   []*mcpv1.Event
}

// inventories reads what the connected nodes say now, and the last word of the others.
func (m *Master) inventories(ctx context.Context) (everything, error) {
	nodes, err := m.store.Nodes(ctx)
	if err != nil {
		return everything{}, err
	}
	var all everything
	for _, n := range nodes {
		if n.State == "removed" {
			continue
		}
		live := false
		if l, err := m.hub.link(n.Name); err == nil {
			_, err := m.hub.refresh(ctx, l)
			live = err == nil
		}
		inv, _ := m.hub.last(n.Name)
		st := inv.GetNode()
		if st == nil {
			st = &mcpv1.NodeStatus{Name: n.Name}
		}
		st.State, st.LastSeen = m.state(n), stamp(n.LastSeen)
		all.nodes = append(all.nodes, st)
		for _, svc := range inv.GetServices() {
			svc.Node = n.Name
			if !live { // we can't see it: never shown as healthy
				svc.State = mcpv1.State_STATE_UNKNOWN
			}
			all.services = append(all.services, svc)
		}
		all.events = append(all.events, inv.GetEvents()...)
	}
	slices.SortFunc(all.services, func(a, b *mcpv1.Service) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return all, nil
}
