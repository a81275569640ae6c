package master

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/master/store"
)

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// pageOf cuts a page out of a list that is whole in memory; the token is the name to go on after.
func pageOf(all []*mcpv1.Service, size int32, token string) (page []*mcpv1.Service, next string, err error) {
	if size < 0 || size > 500 {
		return nil, "", fault.Field1("page_size", "want 1 to 500, have %d", size)
	}
	if size == 0 {
		size = 50
	}
	from := 0
	if token != "" {
		from, _ = slices.BinarySearchFunc(all, token+"\x00", func(s *mcpv1.Service, t string) int { return cmp.Compare(s.GetName(), t) })
	}
	page = all[from:]
	if len(page) > int(size) {
		page = page[:size]
		next = page[size-1].GetName()
	}
	return page, next, nil
}

// ops looks for an operation on the nodes that are connected.
type ops struct {
	mcpv1.UnimplementedOpsServer
	*Master
}

// owner returns the node of an operation. Its id does not say, so the nodes are asked, one after the other.
func (o ops) owner(ctx context.Context, id string) (string, error) {
	var away error
	for _, node := range o.hub.connected() {
		_, err := unary(ctx, o.Master, node, &mcpv1.GetOpRequest{Id: id}, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.GetOpRequest) (*mcpv1.GetOpResponse, error) {
			return mcpv1.NewOpsClient(c).GetOp(ctx, r)
		})
		if err == nil {
			return node, nil
		}
		if !fault.Is(err, fault.NotFound) {
			away = err
		}
	}
	if away != nil {
		return "", away
	}
	return "", fault.New(fault.NotFound, "there is no operation %q on a connected node", id).WithNext("mcp op list")
}

// GetOp passes on.
func (o ops) GetOp(ctx context.Context, req *mcpv1.GetOpRequest) (*mcpv1.GetOpResponse, error) {
	node, err := o.owner(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return unary(ctx, o.Master, node, req, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.GetOpRequest) (*mcpv1.GetOpResponse, error) {
		return mcpv1.NewOpsClient(c).GetOp(ctx, r)
	})
}

// CancelOp passes on.
func (o ops) CancelOp(ctx context.Context, req *mcpv1.CancelOpRequest) (*mcpv1.CancelOpResponse, error) {
	node, err := o.owner(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return unary(ctx, o.Master, node, req, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.CancelOpRequest) (*mcpv1.CancelOpResponse, error) {
		return mcpv1.NewOpsClient(c).CancelOp(ctx, r)
	})
}

// WatchOp passes on.
func (o ops) WatchOp(req *mcpv1.WatchOpRequest, out grpc.ServerStreamingServer[mcpv1.WatchOpResponse]) error {
	node, err := o.owner(out.Context(), req.GetId())
	if err != nil {
		return err
	}
	return stream(o.Master, node, req, out, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.WatchOpRequest) (grpc.ServerStreamingClient[mcpv1.WatchOpResponse], error) {
		return mcpv1.NewOpsClient(c).WatchOp(ctx, r)
	})
}

// ListOps merges the newest operations of the connected nodes. With one node its pages are passed on.
func (o ops) ListOps(ctx context.Context, req *mcpv1.ListOpsRequest) (*mcpv1.ListOpsResponse, error) {
	list := func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.ListOpsRequest) (*mcpv1.ListOpsResponse, error) {
		return mcpv1.NewOpsClient(c).ListOps(ctx, r)
	}
	nodes := o.hub.connected()
	if len(nodes) == 1 {
		return unary(ctx, o.Master, nodes[0], req, list)
	}
	if req.GetPageToken() != "" {
		return nil, fault.Field1("page_token", "over several nodes only the newest operations are listed; name a service")
	}
	out := &mcpv1.ListOpsResponse{}
	for _, node := range nodes {
		resp, err := unary(ctx, o.Master, node, req, list)
		if err != nil {
			return nil, err
		}
		out.Ops = append(out.Ops, resp.GetOps()...)
	}
	slices.SortFunc(out.Ops, func(a, b *mcpv1.Op) int { return b.GetStarted().AsTime().Compare(a.GetStarted().AsTime()) })
	return out, nil
}

// runtimes passes logs and usage on.
type runtimes struct {
	mcpv1.UnimplementedRuntimeServer
	*Master
}

// Logs passes on.
func (r runtimes) Logs(req *mcpv1.LogsRequest, out grpc.ServerStreamingServer[mcpv1.LogsResponse]) error {
	return lifecycle(r.Master, req.GetService(), req, out, func(ctx context.Context, c *grpc.ClientConn, q *mcpv1.LogsRequest) (grpc.ServerStreamingClient[mcpv1.LogsResponse], error) {
		return mcpv1.NewRuntimeClient(c).Logs(ctx, q)
	})
}

// Stats passes on.
func (r runtimes) Stats(ctx context.Context, req *mcpv1.StatsRequest) (*mcpv1.StatsResponse, error) {
	node, err := r.where(ctx, req.GetService())
	if err != nil {
		return nil, err
	}
	return unary(ctx, r.Master, node, req, func(ctx context.Context, c *grpc.ClientConn, q *mcpv1.StatsRequest) (*mcpv1.StatsResponse, error) {
		return mcpv1.NewRuntimeClient(c).Stats(ctx, q)
	})
}

// events merges the nodes' newest events.
type events struct {
	mcpv1.UnimplementedEventsServer
	*Master
}

// ListEvents passes on to the one node, or merges the newest of several.
func (e events) ListEvents(ctx context.Context, req *mcpv1.ListEventsRequest) (*mcpv1.ListEventsResponse, error) {
	nodes := e.hub.connected()
	list := func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.ListEventsRequest) (*mcpv1.ListEventsResponse, error) {
		return mcpv1.NewEventsClient(c).ListEvents(ctx, r)
	}
	if len(nodes) == 1 {
		return unary(ctx, e.Master, nodes[0], req, list)
	}
	if req.GetPageToken() != "" {
		return nil, fault.Field1("page_token", "over several nodes only the newest events are listed; name a service")
	}
	out := &mcpv1.ListEventsResponse{}
	for _, node := range nodes {
		resp, err := unary(ctx, e.Master, node, req, list)
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, resp.GetEvents()...)
	}
	slices.SortFunc(out.Events, func(a, b *mcpv1.Event) int { return b.GetTime().AsTime().Compare(a.GetTime().AsTime()) })
	return out, nil
}

// insight answers from the inventories, and lets each node's doctor look.
type insight struct {
	mcpv1.UnimplementedInsightServer
	*Master
}

// Status is the whole platform on one screen.
func (i insight) Status(ctx context.Context, _ *mcpv1.StatusRequest) (*mcpv1.StatusResponse, error) {
	all, err := i.inventories(ctx)
	if err != nil {
		return nil, err
	}
	out := &mcpv1.StatusResponse{Domain: i.domain, Healthy: len(all.nodes) > 0, Nodes: all.nodes, Services: all.services}
	for _, n := range all.nodes {
		out.Healthy = out.Healthy && n.GetState() == "ready"
	}
	for _, s := range all.services {
		if s.GetDesired() == mcpv1.Desired_DESIRED_RUNNING && s.GetState() != mcpv1.State_STATE_HEALTHY {
			out.Healthy = false
		}
		out.Certificates = append(out.Certificates, s.GetCertificates()...)
	}
	slices.SortFunc(out.Certificates, func(a, b *mcpv1.Certificate) int { return a.GetNotAfter().AsTime().Compare(b.GetNotAfter().AsTime()) })
	for _, e := range all.events {
		if e.GetSeverity() == mcpv1.Severity_SEVERITY_ALERT {
			out.Alerts = append(out.Alerts, e)
		}
	}
	return out, nil
}

// Doctor asks every connected node, and says which is not.
func (i insight) Doctor(ctx context.Context, req *mcpv1.DoctorRequest) (*mcpv1.DoctorResponse, error) {
	nodes, err := i.store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	out := &mcpv1.DoctorResponse{}
	for _, n := range nodes {
		if n.State == "removed" {
			continue
		}
		if _, err := i.hub.link(n.Name); err != nil {
			out.Findings = append(out.Findings, &mcpv1.Finding{Code: "node.reach", Level: "fail", Subject: n.Name,
				Detail: "its agent is not connected to the master", Next: "on the node: mcp --local doctor"})
			continue
		}
		resp, err := unary(ctx, i.Master, n.Name, req, func(ctx context.Context, c *grpc.ClientConn, r *mcpv1.DoctorRequest) (*mcpv1.DoctorResponse, error) {
			return mcpv1.NewInsightClient(c).Doctor(ctx, r)
		})
		if err != nil {
			return nil, err
		}
		out.Findings = append(out.Findings, resp.GetFindings()...)
	}
	return out, nil
}

// nodes owns the table of machines.
type nodes struct {
	mcpv1.UnimplementedNodesServer
	*Master
}

// state judges a node by the time since its last word.
func (m *Master) state(n store.Node) string {
	if n.State != "ready" {
		return n.State
	}
	_, ago := m.hub.last(n.Name)
	inv, _ := m.hub.last(n.Name)
	switch {
	case inv == nil && n.CertFP == "":
		return "joining"
	case inv == nil: // since this master started
		ago = time.Since(m.started)
	}
	switch {
	case ago > m.down:
		return "down"
	case ago > m.suspect:
		return "suspect"
	case n.Cordoned:
		return "cordoned"
	}
	return "ready"
}

func (n nodes) message(row store.Node) *mcpv1.Node {
	inv, _ := n.hub.last(row.Name)
	return &mcpv1.Node{Name: row.Name, State: n.state(row), Cordoned: row.Cordoned, KeyFingerprint: row.CertFP, Version: inv.GetNode().GetVersion(),
		Joined: stamp(row.Joined), LastSeen: stamp(row.LastSeen), Services: int32(len(inv.GetServices()))} //nolint:gosec // services of one node
}

// ListNodes returns the nodes by name, all at once: there are some dozens at most.
func (n nodes) ListNodes(ctx context.Context, req *mcpv1.ListNodesRequest) (*mcpv1.ListNodesResponse, error) {
	if req.GetPageSize() < 0 || req.GetPageSize() > 500 {
		return nil, fault.Field1("page_size", "want 1 to 500, have %s", strconv.Itoa(int(req.GetPageSize())))
	}
	if req.GetPageToken() != "" {
		return nil, fault.Field1("page_token", "this list has one page")
	}
	rows, err := n.store.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	out := &mcpv1.ListNodesResponse{}
	for _, r := range rows {
		out.Nodes = append(out.Nodes, n.message(r))
	}
	return out, nil
}

// GetNode returns one.
func (n nodes) GetNode(ctx context.Context, req *mcpv1.GetNodeRequest) (*mcpv1.GetNodeResponse, error) {
	row, err := n.store.Node(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &mcpv1.GetNodeResponse{Node: n.message(row)}, nil
}

// RegisterNode makes the row of the master's own node.
func (n nodes) RegisterNode(ctx context.Context, req *mcpv1.RegisterNodeRequest) (*mcpv1.RegisterNodeResponse, error) {
	if !nodeName.MatchString(req.GetName()) {
		return nil, fault.Field1("name", "%q is not a node's name: small letters, digits and hyphens, beginning with a letter, at most 40", req.GetName())
	}
	created, err := n.store.AddNode(ctx, req.GetName(), n.clock.Now())
	if err != nil {
		return nil, err
	}
	row, err := n.store.Node(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &mcpv1.RegisterNodeResponse{Node: n.message(row), Created: created}, nil
}
