package grpcserver

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/audit"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
)

// streams knows every open stream, so that a drain can end them.
type streams struct {
	mu   sync.Mutex // guards all below
	open map[*stream]struct{}
	over error // set once everything was ended
}

func (s *streams) add(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		st.end(s.over)
		return
	}
	if s.open == nil {
		s.open = map[*stream]struct{}{}
	}
	s.open[st] = struct{}{}
}

func (s *streams) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, st)
}

func (s *streams) endAll(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = err
	for st := range s.open {
		st.end(err)
	}
}

// stream is a server stream with our context. Its first message is what audit sees as the request, and nothing
// is sent before policy has decided.
type stream struct {
	grpc.ServerStream
	ctx  context.Context
	end  context.CancelCauseFunc
	c    chain
	call *auth.Call

	mu      sync.Mutex // guards all below
	started bool
	rec     *audit.Record
	refused error
}

// Context returns the context that ends with the stream, its token, or the server.
func (s *stream) Context() context.Context { return s.ctx }

// RecvMsg receives a message; before the first one reaches the handler, audit is asked.
func (s *stream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.begin(m)
}

// SendMsg sends a message if policy has decided.
func (s *stream) SendMsg(m any) error {
	if err := s.begin(nil); err != nil {
		return err
	}
	if err := s.call.MayAnswer(nil); err != nil {
		s.mu.Lock()
		s.refused = err
		s.mu.Unlock()
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *stream) begin(req any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started {
		s.started = true
		s.rec, s.refused = s.c.begin(s.ctx, s.call, req)
	}
	return s.refused
}

func (c chain) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx, call, md := c.enter(ss.Context(), info.FullMethod)
	defer func() {
		err = c.done(ctx, call, start, err)
		if c.transport == auth.InProcess {
			ss.SetTrailer(call.Trailer())
		}
	}()
	if err := c.admit(call, md); err != nil {
		return err
	}
	if d := deadline(call.Rule, 0); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if c.conf.Verifier != nil {
		held, release := c.conf.Verifier.Hold(ctx, call)
		defer release()
		ctx = held
	}
	sctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	st := &stream{ServerStream: ss, ctx: sctx, end: end, c: c, call: call}
	c.streams.add(st)
	defer c.streams.remove(st)
	return c.runStream(ss.Context(), st, srv, handler, start)
}

// runStream runs the handler beside a look at its context. A handler may sit in a Send that the client does not
// read, or in a Recv, which knows only the transport's context: so when the stream must end, this returns at
// once, gRPC closes the stream, and that wakes the handler. The server's stop waits for it.
func (c chain) runStream(transport context.Context, st *stream, srv any, handler grpc.StreamHandler, start time.Time) error {
	done := make(chan error, 1)
	c.handlers.Go(func() {
		var err error
		defer func() {
			if p := recover(); p != nil {
				err = c.panicked(st.ctx, st.call, p)
			}
			if derr := st.call.MayAnswer(err); derr != nil {
				err = derr
			}
			st.mu.Lock()
			rec, refused := st.rec, st.refused
			st.mu.Unlock()
			if refused != nil {
				err = refused
			}
			c.Server.end(st.ctx, rec, start, err)
			done <- err
		}()
		err = handler(srv, st)
	})
	select {
	case err := <-done:
		return c.outcome(transport, st, err)
	case <-st.ctx.Done():
	}
	// A handler that watches its context ends by itself; give it the moment it needs to say its own last word.
	if transport.Err() != nil {
		return c.outcome(transport, st, <-done)
	}
	return c.outcome(transport, st, st.ctx.Err())
}

// outcome prefers the reason for which we ended the stream over the cancellation that the handler saw.
func (c chain) outcome(transport context.Context, st *stream, err error) error {
	if err == nil || transport.Err() != nil || st.ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(st.ctx); cause != nil {
		if f := fault.From(cause); f.Reason != "CANCELED" {
			return cause
		}
	}
	return err
}
