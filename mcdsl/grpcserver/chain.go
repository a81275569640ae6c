package grpcserver

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/audit"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/log"
)

// chain is the one way into a handler, bound to a transport. Its order: recover, request id and client, log and
// metrics, drain gate, deadline, rule, token, budget, access, step-up, sealed gate, audit, then the service's own.
type chain struct {
	*Server
	transport auth.Transport
}

func errDraining() error {
	return fault.New(fault.Unavailable, "the service is stopping").WithReason(auth.ReasonDraining).WithRetry(2 * time.Second)
}

// enter makes the call: where it comes from, and on the socket who it is.
func (c chain) enter(ctx context.Context, method string) (context.Context, *auth.Call, metadata.MD) {
	md, _ := metadata.FromIncomingContext(ctx)
	call := &auth.Call{Origin: auth.Origin{Transport: c.transport}}
	if c.transport == auth.InProcess {
		call.Origin, call.Caller = auth.Incoming(md)
	} else {
		if stripped := auth.Strip(md); len(stripped) != len(md) {
			md = stripped
			ctx = metadata.NewIncomingContext(ctx, md)
		}
		if p, ok := peer.FromContext(ctx); ok {
			if l, ok := p.AuthInfo.(localInfo); ok {
				call.Caller = l.caller
			} else {
				call.Client = httpserver.AddrOf(p.Addr)
			}
		}
	}
	if call.Origin.RequestID == "" {
		call.Origin.RequestID = httpserver.NewRequestID()
	}
	call.Method = method
	call.Rule = c.rules[method]
	ctx = log.WithRequestID(auth.Enter(ctx, call), call.Origin.RequestID)
	return ctx, call, md
}

// admit is everything between the edge and audit.
func (c chain) admit(call *auth.Call, md metadata.MD) error {
	if c.draining.Load() && !isHealth(call.Method) {
		return errDraining()
	}
	bearer, err := auth.Bearer(md.Get("authorization"))
	if err != nil {
		return err
	}
	return c.check(call, bearer)
}

// check judges a call of any transport, gRPC or HTTP.
func (s *Server) check(call *auth.Call, bearer string) error {
	var err error
	if s.conf.Verifier != nil {
		err = s.conf.Verifier.Check(call, bearer)
	} else {
		err = call.Rule.Admit(call.Caller, s.clock.Now())
	}
	if err != nil {
		return err
	}
	if call.Rule.NeedsUnsealed && s.conf.Sealed != nil {
		return s.conf.Sealed()
	}
	return nil
}

func (c chain) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	ctx, call, md := c.enter(ctx, info.FullMethod)
	defer func() {
		if p := recover(); p != nil {
			err = c.panicked(ctx, call, p)
		}
		if err != nil {
			resp = nil
		}
		err = c.done(ctx, call, start, err)
		if c.transport == auth.InProcess {
			_ = grpc.SetTrailer(ctx, call.Trailer()) // only the edge's log line depends on it
		}
	}()
	if err := c.admit(call, md); err != nil {
		return nil, err
	}
	if d := deadline(call.Rule, defaultDeadline); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	rec, err := c.begin(ctx, call, req)
	if err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = c.panicked(ctx, call, p)
		}
		c.end(ctx, rec, start, err)
	}()
	resp, err = handler(ctx, req)
	if derr := call.MayAnswer(err); derr != nil {
		return nil, derr
	}
	return resp, err
}

// done logs and counts a call and makes the status its caller sees.
func (c chain) done(ctx context.Context, call *auth.Call, start time.Time, err error) error {
	took := time.Since(start)
	st := fault.Status(err, fault.Origin{Service: c.conf.Service, RequestID: call.Origin.RequestID})
	if own, ok := status.FromError(err); ok && err != nil && len(own.Details()) == 0 && own.Code() == codes.Unimplemented {
		st = own // a method of a newer contract; the table of kinds has no word for it
	}
	c.conf.Metrics.RPC(call.Method, st.Code().String(), string(c.transport), took)
	if st.Code() == codes.Internal {
		c.log.ErrorContext(ctx, "internal error", "method", call.Method, log.Err(err))
	}
	level := slog.LevelInfo
	if c.transport == auth.InProcess || isHealth(call.Method) {
		level = slog.LevelDebug // the HTTP edge writes the line of a REST call or page
	}
	user := ""
	if call.Caller.Known() {
		user = call.Caller.String()
	}
	c.log.LogAttrs(ctx, level, log.Request, slog.String("method", call.Method), slog.String("code", st.Code().String()),
		log.Dur(took), slog.String("user", user), slog.String("client", client(call)))
	return st.Err()
}

func (s *Server) panicked(ctx context.Context, call *auth.Call, p any) error {
	s.conf.Metrics.Panic(call.Method)
	s.log.ErrorContext(ctx, "panic", "method", call.Method, "panic", p, "stack", string(debug.Stack()))
	return fault.New(fault.Internal, "panic in %s", call.Method)
}

// begin asks audit before the handler runs. A nil record means that the call is not audited.
func (s *Server) begin(ctx context.Context, call *auth.Call, req any) (*audit.Record, error) {
	r := call.Rule
	breakGlass := call.Caller.LocalAdmin() && r.Access != auth.AccessPublic && !r.AnyLocal
	if !r.Audit && !breakGlass {
		return nil, nil
	}
	rec := &audit.Record{Time: s.clock.Now().UTC(), Who: call.Caller.Name, Subject: call.Caller.Subject, Kind: string(call.Caller.Kind),
		Method: call.Method, RequestID: call.Origin.RequestID, Transport: string(call.Transport), Client: client(call)}
	if r.Target != nil && req != nil {
		rec.Target = r.Target(req)
	}
	return rec, s.audit.Begin(ctx, rec)
}

func (s *Server) end(ctx context.Context, rec *audit.Record, start time.Time, err error) {
	if rec == nil {
		return
	}
	rec.Outcome, rec.Duration = "ok", time.Since(start)
	if f := fault.From(err); f != nil {
		rec.Outcome, rec.Reason = f.Kind.String(), f.Reason
	}
	// The outcome is known even if the caller is gone.
	s.audit.End(context.WithoutCancel(ctx), rec)
}

func client(call *auth.Call) string {
	if call.Client.IsValid() {
		return call.Client.String()
	}
	return string(call.Transport)
}

func deadline(r auth.Rule, otherwise time.Duration) time.Duration {
	switch {
	case r.Deadline > 0:
		return r.Deadline
	case r.Deadline < 0:
		return 0
	}
	return otherwise
}
