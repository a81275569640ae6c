package agent

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/deploy"
	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// server implements the contract for this node.
type server struct {
	mcpv1.UnimplementedServicesServer
	mcpv1.UnimplementedOpsServer
	mcpv1.UnimplementedRuntimeServer
	mcpv1.UnimplementedEventsServer
	mcpv1.UnimplementedInsightServer
	mcpv1.UnimplementedNodeLocalServer
	mcpv1.UnimplementedPlatformServer

	cfg     Config
	d       *deploy.Deployer
	store   *store.Store
	engines map[string]engine.Engine
	version string
	dir     string
}

// operator is who asked, for journal and history.
func operator(ctx context.Context) string {
	c := auth.From(ctx)
	if c.Kind == auth.Socket {
		return "local:" + c.Name
	}
	return c.Name
}

// parse reads a definition; only callers on the node's own socket may bring one of the platform's.
func (s *server) parse(ctx context.Context, src *mcpv1.Source) (*spec.Service, []spec.Fault, []spec.Fault) {
	return spec.Parse(src.GetDefinition(), spec.Rules{Domain: s.cfg.Agent.Domain, Core: auth.From(ctx).LocalAdmin()})
}

func faults(file string, in []spec.Fault) []*mcpv1.Fault {
	out := []*mcpv1.Fault{}
	for _, f := range in {
		out = append(out, &mcpv1.Fault{File: file, Line: int32(f.Line), Field: f.Field, Message: f.Message}) //nolint:gosec // a line of a bounded file
	}
	return out
}

// parsed turns faults into one Invalid error that names them all.
func (s *server) parsed(ctx context.Context, src *mcpv1.Source) (*spec.Service, []*mcpv1.Fault, error) {
	sp, bad, warnings := s.parse(ctx, src)
	if len(bad) == 0 {
		return sp, faults(src.GetFile(), warnings), nil
	}
	f := fault.New(fault.Invalid, "the definition has %d fault(s)", len(bad)).WithNext("mcp validate %s", src.GetFile())
	for _, b := range faults(src.GetFile(), bad) {
		name := b.GetField()
		if name == "" {
			name = "definition"
		}
		f = f.WithField(name, "line %d: %s", b.GetLine(), b.GetMessage())
	}
	return nil, nil, f
}

// Validate implements the contract.
func (s *server) Validate(ctx context.Context, r *mcpv1.ValidateRequest) (*mcpv1.ValidateResponse, error) {
	sp, bad, warnings := s.parse(ctx, r.GetSource())
	out := &mcpv1.ValidateResponse{Faults: faults(r.GetSource().GetFile(), bad), Warnings: faults(r.GetSource().GetFile(), warnings)}
	if sp != nil {
		out.Service, out.SpecHash = sp.Name, sp.Hash()
	}
	return out, nil
}

// planLife is how long a plan id is worth something; it is checked by computing it again, so this is for people.
const planLife = time.Hour

func (s *server) plan(p *deploy.Plan, warnings []*mcpv1.Fault) *mcpv1.Plan {
	out := &mcpv1.Plan{Id: p.ID, Service: p.Service, Node: s.cfg.Agent.Node, Empty: p.Empty, Generation: p.Generation, Interruption: p.Interruption,
		Warnings: warnings, Expires: timestamppb.New(time.Now().Add(planLife))}
	for _, c := range p.Changes {
		out.Changes = append(out.Changes, &mcpv1.Change{Action: c.Action, Kind: c.Kind, Subject: c.Subject, Fields: c.Fields})
	}
	for _, c := range p.Spec.Components {
		out.Images = append(out.Images, &mcpv1.PlannedImage{Component: c.Name, Reference: c.Image, Digest: p.Digests[c.Name]})
	}
	return out
}

// Plan implements the contract.
func (s *server) Plan(ctx context.Context, r *mcpv1.PlanRequest) (*mcpv1.PlanResponse, error) {
	sp, warnings, err := s.parsed(ctx, r.GetSource())
	if err != nil {
		return nil, err
	}
	p, err := s.d.Plan(ctx, sp)
	if err != nil {
		return nil, err
	}
	return &mcpv1.PlanResponse{Plan: s.plan(p, warnings)}, nil
}

// sender is what all operation streams can do.
type sender func(ev *mcpv1.OpEvent) error

// follow streams an operation, to its end or until it is live.
func (s *server) follow(ctx context.Context, op store.Op, wait bool, send sender) error {
	if err := send(&mcpv1.OpEvent{Event: &mcpv1.OpEvent_Accepted{Accepted: s.op(ctx, op)}}); err != nil {
		return err
	}
	return s.stream(ctx, op.ID, !wait, 0, send)
}

func (s *server) stream(ctx context.Context, id string, untilLive bool, from int64, send sender) error {
	return s.d.Follow(ctx, id, untilLive, func(p deploy.Progress) error {
		switch {
		case p.Step != nil:
			if p.Step.N < from {
				return nil
			}
			return send(&mcpv1.OpEvent{Event: &mcpv1.OpEvent_Step{Step: step(*p.Step)}})
		case p.Live != nil:
			return send(&mcpv1.OpEvent{Event: &mcpv1.OpEvent_Live{Live: s.op(ctx, *p.Live)}})
		case p.End != nil:
			return send(&mcpv1.OpEvent{Event: &mcpv1.OpEvent_Ended{Ended: s.op(ctx, *p.End)}})
		}
		return nil
	})
}

func step(st store.Step) *mcpv1.Step {
	states := map[string]mcpv1.StepState{"begun": mcpv1.StepState_STEP_STATE_BEGUN, "done": mcpv1.StepState_STEP_STATE_DONE, "failed": mcpv1.StepState_STEP_STATE_FAILED}
	return &mcpv1.Step{N: st.N, Name: st.Name, State: states[st.State], Detail: st.Detail, At: timestamppb.New(st.At), Seconds: st.Seconds}
}

var opStates = map[string]mcpv1.OpState{
	store.OpRunning: mcpv1.OpState_OP_STATE_RUNNING, store.OpLive: mcpv1.OpState_OP_STATE_LIVE, store.OpSucceeded: mcpv1.OpState_OP_STATE_SUCCEEDED,
	store.OpFailed: mcpv1.OpState_OP_STATE_FAILED, store.OpReverted: mcpv1.OpState_OP_STATE_REVERTED, store.OpCancelled: mcpv1.OpState_OP_STATE_CANCELLED,
}

func (s *server) op(ctx context.Context, op store.Op) *mcpv1.Op {
	out := &mcpv1.Op{Id: op.ID, Kind: op.Kind, Service: op.Service, Node: s.cfg.Agent.Node, PlanId: op.PlanID, State: opStates[op.State], Operator: op.Operator,
		Reason: op.Reason, Started: timestamppb.New(op.Started), Generation: op.Generation}
	if !op.Ended.IsZero() {
		out.Ended = timestamppb.New(op.Ended)
	}
	if op.Error != "" {
		var e deploy.OpError
		if json.Unmarshal([]byte(op.Error), &e) == nil {
			out.Error = &mcpv1.OpError{Message: e.Message, Next: e.Next, LogTail: e.Tail, Component: e.Component}
		}
	}
	if g, err := s.store.Generation(ctx, op.Service, op.Generation); err == nil {
		if sp, err := spec.FromCanonical([]byte(g.Spec)); err == nil {
			for _, c := range sp.Components {
				for _, r := range c.Routes {
					if r.Listener == "https" {
						out.Urls = append(out.Urls, s.d.URL(r.Host))
					}
				}
			}
		}
	}
	return out
}

// Deploy implements the contract.
func (s *server) Deploy(r *mcpv1.DeployRequest, stream mcpv1.Services_DeployServer) error {
	ctx := stream.Context()
	sp, warnings, err := s.parsed(ctx, r.GetSource())
	if err != nil {
		return err
	}
	op, p, err := s.d.Deploy(ctx, sp, deploy.Request{Key: r.GetIdempotencyKey(), Operator: operator(ctx), Reason: r.GetReason(), PlanID: r.GetPlanId()})
	if err != nil {
		return err
	}
	if err := stream.Send(&mcpv1.DeployResponse{Plan: s.plan(p, warnings)}); err != nil || op.ID == "" {
		return err
	}
	return s.follow(ctx, op, r.GetWait(), func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.DeployResponse{Event: ev}) })
}

// Rollback implements the contract.
func (s *server) Rollback(r *mcpv1.RollbackRequest, stream mcpv1.Services_RollbackServer) error {
	ctx := stream.Context()
	op, p, err := s.d.Rollback(ctx, r.GetService(), r.GetGeneration(), deploy.Request{Key: r.GetIdempotencyKey(), Operator: operator(ctx), Reason: r.GetReason()})
	if err != nil {
		return err
	}
	if err := stream.Send(&mcpv1.RollbackResponse{Plan: s.plan(p, nil)}); err != nil {
		return err
	}
	return s.follow(ctx, op, r.GetWait(), func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.RollbackResponse{Event: ev}) })
}

// Start implements the contract.
func (s *server) Start(r *mcpv1.StartRequest, stream mcpv1.Services_StartServer) error {
	ctx := stream.Context()
	op, err := s.d.Start(ctx, r.GetService(), false, deploy.Request{Key: r.GetIdempotencyKey(), Operator: operator(ctx)})
	if err != nil {
		return err
	}
	return s.follow(ctx, op, true, func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.StartResponse{Event: ev}) })
}

// Restart implements the contract.
func (s *server) Restart(r *mcpv1.RestartRequest, stream mcpv1.Services_RestartServer) error {
	ctx := stream.Context()
	op, err := s.d.Start(ctx, r.GetService(), true, deploy.Request{Key: r.GetIdempotencyKey(), Operator: operator(ctx)})
	if err != nil {
		return err
	}
	return s.follow(ctx, op, true, func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.RestartResponse{Event: ev}) })
}

// Stop implements the contract.
func (s *server) Stop(r *mcpv1.StopRequest, stream mcpv1.Services_StopServer) error {
	ctx := stream.Context()
	op, err := s.d.Stop(ctx, r.GetService(), "stopped", deploy.Request{Key: r.GetIdempotencyKey(), Operator: operator(ctx)})
	if err != nil {
		return err
	}
	return s.follow(ctx, op, true, func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.StopResponse{Event: ev}) })
}

// Undeploy implements the contract.
func (s *server) Undeploy(r *mcpv1.UndeployRequest, stream mcpv1.Services_UndeployServer) error {
	ctx := stream.Context()
	if d := r.GetDeleteData(); d != "" && d != r.GetService() {
		return fault.Field1("delete_data", "does not repeat the service's name")
	}
	op, kept, err := s.d.Undeploy(ctx, r.GetService(), r.GetDeleteData() != "", deploy.Request{Key: r.GetIdempotencyKey(), Operator: operator(ctx)})
	if err != nil {
		return err
	}
	if err := stream.Send(&mcpv1.UndeployResponse{Kept: kept}); err != nil {
		return err
	}
	return s.follow(ctx, op, true, func(ev *mcpv1.OpEvent) error { return stream.Send(&mcpv1.UndeployResponse{Event: ev}) })
}
