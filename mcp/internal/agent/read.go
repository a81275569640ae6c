package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/deploy"
	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/store"
)

var desired = map[string]mcpv1.Desired{
	"running": mcpv1.Desired_DESIRED_RUNNING, "stopped": mcpv1.Desired_DESIRED_STOPPED, "down": mcpv1.Desired_DESIRED_DOWN,
}

var observed = map[string]mcpv1.State{
	"absent": mcpv1.State_STATE_ABSENT, "created": mcpv1.State_STATE_CREATED, "starting": mcpv1.State_STATE_STARTING, "healthy": mcpv1.State_STATE_HEALTHY,
	"unhealthy": mcpv1.State_STATE_UNHEALTHY, "exited": mcpv1.State_STATE_EXITED, "unknown": mcpv1.State_STATE_UNKNOWN,
}

func (s *server) service(v deploy.View, full bool) *mcpv1.Service {
	out := &mcpv1.Service{Name: v.Row.Name, Node: s.cfg.Agent.Node, Desired: desired[v.Row.Desired], State: observed[v.State], Core: v.Row.Core,
		Generation: v.Row.Current, PreviousGeneration: v.Row.Previous, SpecHash: v.SpecHash, OpId: v.OpID}
	if full {
		out.Definition = v.Definition
	}
	for _, c := range v.Components {
		pc := &mcpv1.Component{Name: c.Name, State: observed[c.State], Image: c.Image, Digest: c.Digest, Generation: v.Row.Current, Engine: c.Engine,
			EngineId: c.Container.ID, Pid: int64(c.Container.PID), ExitCode: int32(c.Container.ExitCode), Oom: c.Container.OOM, Detail: c.Detail} //nolint:gosec // an exit code
		if !c.Container.Started.IsZero() {
			pc.Started = timestamppb.New(c.Container.Started)
		}
		for _, p := range c.Ports {
			pc.Ports = append(pc.Ports, &mcpv1.Port{Name: p.Name, Declared: int32(p.Declared), Published: int32(p.Published), Slot: p.Slot}) //nolint:gosec // ports
		}
		out.Components = append(out.Components, pc)
	}
	for _, r := range v.Routes {
		out.Routes = append(out.Routes, &mcpv1.Route{Listener: r.Listener, Host: r.Host, Mode: r.Mode, Component: r.Component, Port: r.Port, Backend: r.Backend, Url: r.URL})
	}
	return out
}

// GetService implements the contract.
func (s *server) GetService(ctx context.Context, r *mcpv1.GetServiceRequest) (*mcpv1.GetServiceResponse, error) {
	v, err := s.d.View(ctx, r.GetService())
	if err != nil {
		return nil, err
	}
	return &mcpv1.GetServiceResponse{Service: s.service(v, true)}, nil
}

func (s *server) services(ctx context.Context) ([]*mcpv1.Service, error) {
	all, err := s.d.Views(ctx)
	if err != nil {
		return nil, err
	}
	out := []*mcpv1.Service{}
	for _, v := range all {
		out = append(out, s.service(v, false))
	}
	return out, nil
}

// ListServices implements the contract. A node has at most a few hundred: one page holds them.
func (s *server) ListServices(ctx context.Context, _ *mcpv1.ListServicesRequest) (*mcpv1.ListServicesResponse, error) {
	all, err := s.services(ctx)
	if err != nil {
		return nil, err
	}
	return &mcpv1.ListServicesResponse{Services: all}, nil
}

func pageSize(n int32) int {
	if n <= 0 {
		return 50
	}
	return int(min(n, 500))
}

// History implements the contract.
func (s *server) History(ctx context.Context, r *mcpv1.HistoryRequest) (*mcpv1.HistoryResponse, error) {
	if _, err := s.store.Service(ctx, r.GetService()); err != nil {
		return nil, err
	}
	gens, err := s.store.Generations(ctx, r.GetService(), pageSize(r.GetPageSize()))
	if err != nil {
		return nil, err
	}
	out := &mcpv1.HistoryResponse{}
	for _, g := range gens {
		pg := &mcpv1.Generation{N: g.N, State: g.State, SpecHash: g.SpecHash, Operator: g.Operator, Reason: g.Reason, Created: timestamppb.New(g.Created)}
		for _, i := range deploy.ImagesOf(g) {
			pg.Images = append(pg.Images, &mcpv1.PlannedImage{Component: i.Component, Reference: i.Reference, Digest: i.Digest})
		}
		out.Generations = append(out.Generations, pg)
	}
	return out, nil
}

// GetOp implements the contract.
func (s *server) GetOp(ctx context.Context, r *mcpv1.GetOpRequest) (*mcpv1.GetOpResponse, error) {
	op, err := s.store.Op(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	steps, err := s.store.Steps(ctx, op.ID)
	if err != nil {
		return nil, err
	}
	out := &mcpv1.GetOpResponse{Op: s.op(ctx, op)}
	for _, st := range steps {
		out.Steps = append(out.Steps, step(st))
		out.Op.Step = st.Name
	}
	return out, nil
}

// ListOps implements the contract.
func (s *server) ListOps(ctx context.Context, r *mcpv1.ListOpsRequest) (*mcpv1.ListOpsResponse, error) {
	ops, err := s.store.Ops(ctx, r.GetService(), pageSize(r.GetPageSize()))
	if err != nil {
		return nil, err
	}
	out := &mcpv1.ListOpsResponse{Ops: []*mcpv1.Op{}}
	for _, op := range ops {
		out.Ops = append(out.Ops, s.op(ctx, op))
	}
	return out, nil
}

// WatchOp implements the contract.
func (s *server) WatchOp(r *mcpv1.WatchOpRequest, stream mcpv1.Ops_WatchOpServer) error {
	op, err := s.store.Op(stream.Context(), r.GetId())
	if err != nil {
		return err
	}
	send := func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.WatchOpResponse{Event: ev}) }
	if err := send(&mcpv1.OpEvent{Event: &mcpv1.OpEvent_Accepted{Accepted: s.op(stream.Context(), op)}}); err != nil {
		return err
	}
	return s.stream(stream.Context(), op.ID, r.GetUntilLive(), r.GetFromStep(), send)
}

// Logs implements the contract: the lines of one component, or of all, component after component; with follow of the one
// asked for or the only one.
func (s *server) Logs(r *mcpv1.LogsRequest, stream mcpv1.Runtime_LogsServer) error {
	ctx := stream.Context()
	v, err := s.d.View(ctx, r.GetService())
	if err != nil {
		return err
	}
	i := slices.IndexFunc(v.Components, func(c deploy.ComponentView) bool { return c.Name == r.GetComponent() })
	if r.GetComponent() != "" && i < 0 {
		return fault.New(fault.NotFound, "%s has no component %q", r.GetService(), r.GetComponent()).WithNext("mcp show %s", r.GetService())
	}
	chosen := v.Components
	if i >= 0 {
		chosen = chosen[i : i+1]
	}
	for _, c := range chosen {
		if c.Container.ID == "" {
			continue
		}
		opts := engine.LogOptions{Tail: int(r.GetTail()), Follow: r.GetFollow() && len(chosen) == 1}
		err := s.engines[c.Engine].Logs(ctx, c.Container.ID, opts, func(l engine.LogLine) error {
			return stream.Send(&mcpv1.LogsResponse{Time: timestamppb.New(l.Time), Component: c.Name, Generation: v.Row.Current, Stream: l.Stream, Line: l.Text})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ListEvents implements the contract.
func (s *server) ListEvents(ctx context.Context, r *mcpv1.ListEventsRequest) (*mcpv1.ListEventsResponse, error) {
	evs, err := s.store.Events(ctx, r.GetService(), r.GetKind(), pageSize(r.GetPageSize()))
	if err != nil {
		return nil, err
	}
	return &mcpv1.ListEventsResponse{Events: s.events(evs)}, nil
}

func (s *server) events(evs []store.Event) []*mcpv1.Event {
	out := []*mcpv1.Event{}
	for _, e := range evs {
		out = append(out, &mcpv1.Event{Seq: e.Seq, Time: timestamppb.New(e.Time), Service: e.Service, Kind: e.Kind, Severity: mcpv1.Severity(e.Severity), //nolint:gosec // a small enum
			Detail: e.Detail, OpId: e.Op, Node: s.cfg.Agent.Node})
	}
	return out
}

func (s *server) node(ctx context.Context) *mcpv1.NodeStatus {
	n := &mcpv1.NodeStatus{Name: s.cfg.Agent.Node, State: "ready", Version: s.version, LastSeen: timestamppb.New(time.Now())}
	for _, e := range s.engines {
		info, err := e.Info(ctx)
		es := &mcpv1.EngineStatus{Kind: info.Kind, Version: info.Version, Up: err == nil, Weaker: info.Weaker}
		if err != nil {
			es.Reason = "it does not answer"
		}
		n.Engines = append(n.Engines, es)
	}
	slices.SortFunc(n.Engines, func(a, b *mcpv1.EngineStatus) int {
		if a.GetKind() < b.GetKind() {
			return -1
		}
		return 1
	})
	var fs unix.Statfs_t
	if unix.Statfs(s.dir, &fs) == nil {
		n.DiskFreeBytes, n.DiskTotalBytes = int64(fs.Bavail)*fs.Bsize, int64(fs.Blocks)*fs.Bsize //nolint:gosec // sizes of a disk
	}
	return n
}

// Status implements the contract.
func (s *server) Status(ctx context.Context, _ *mcpv1.StatusRequest) (*mcpv1.StatusResponse, error) {
	all, err := s.services(ctx)
	if err != nil {
		return nil, err
	}
	out := &mcpv1.StatusResponse{Domain: s.cfg.Agent.Domain, Services: all, Nodes: []*mcpv1.NodeStatus{s.node(ctx)}, Healthy: true}
	for _, sv := range all {
		if sv.GetState() != mcpv1.State_STATE_HEALTHY {
			out.Healthy = false
		}
	}
	return out, nil
}

// Inventory implements the contract.
func (s *server) Inventory(ctx context.Context, _ *mcpv1.InventoryRequest) (*mcpv1.InventoryResponse, error) {
	all, err := s.services(ctx)
	if err != nil {
		return nil, err
	}
	evs, err := s.store.Events(ctx, "", "", 50)
	if err != nil {
		return nil, err
	}
	return &mcpv1.InventoryResponse{Node: s.node(ctx), Services: all, Events: s.events(evs), Time: timestamppb.New(time.Now())}, nil
}

// Ports implements the contract: "component/port" names of one service.
func (s *server) Ports(ctx context.Context, r *mcpv1.PortsRequest) (*mcpv1.PortsResponse, error) {
	out := &mcpv1.PortsResponse{}
	for _, n := range r.GetNames() {
		component, name := filepath.Split(n)
		if component == "" || name == "" {
			return nil, fault.Field1("names", "%q is not component/port", n)
		}
		p, err := s.d.Ports(ctx, r.GetService(), filepath.Clean(component), name)
		if err != nil {
			return nil, err
		}
		out.Ports = append(out.Ports, &mcpv1.PortPair{Name: n, A: int32(p), B: int32(p + 1)}) //nolint:gosec // ports
	}
	return out, nil
}

// Down implements the contract: every service stops, the last started first, lastingly.
func (s *server) Down(r *mcpv1.DownRequest, stream mcpv1.Platform_DownServer) error {
	ctx := stream.Context()
	names, err := s.d.BootOrder(ctx)
	if err != nil {
		return err
	}
	slices.Reverse(names)
	for _, sv := range names {
		if sv.Desired != "running" || sv.Current == 0 || (r.GetAppsOnly() && sv.Core) {
			continue
		}
		op, err := s.d.Stop(ctx, sv.Name, "down", deploy.Request{Operator: operator(ctx), Reason: "mcp down"})
		if err != nil {
			return fmt.Errorf("stop %s: %w", sv.Name, err)
		}
		if err := s.follow(ctx, op, true, func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.DownResponse{Event: ev}) }); err != nil {
			return err
		}
	}
	return nil
}

// Up implements the contract: what Down stopped runs again, in boot order.
func (s *server) Up(_ *mcpv1.UpRequest, stream mcpv1.Platform_UpServer) error {
	ctx := stream.Context()
	names, err := s.d.BootOrder(ctx)
	if err != nil {
		return err
	}
	for _, sv := range names {
		if sv.Desired != "down" {
			continue
		}
		op, err := s.d.Start(ctx, sv.Name, false, deploy.Request{Operator: operator(ctx), Reason: "mcp up"})
		if err != nil {
			return fmt.Errorf("start %s: %w", sv.Name, err)
		}
		if err := s.follow(ctx, op, true, func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.UpResponse{Event: ev}) }); err != nil {
			return err
		}
	}
	return nil
}

// Destroy implements the contract: every container, network and image of this platform goes from the engines.
func (s *server) Destroy(r *mcpv1.DestroyRequest, stream mcpv1.Platform_DestroyServer) error {
	if r.GetConfirmDomain() != s.cfg.Agent.Domain {
		return fault.Field1("confirm_domain", "does not repeat the platform's domain")
	}
	err := s.d.Destroy(stream.Context(), func(what string) error { return stream.Send(&mcpv1.DestroyResponse{Removed: what}) })
	if err != nil {
		return err
	}
	return stream.Send(&mcpv1.DestroyResponse{Done: true})
}
