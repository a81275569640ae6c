package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/fault"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/mint"
	"metacircular.net/mcias/internal/revoke"
)

// beat is how often a stream hears something; the contract says at most 5 s.
const beat = 3 * time.Second

type watchServer struct {
	mciasv1.UnimplementedWatchServer
	*Servers
}

// seen remembers assertions of Watch in memory only, so that Watch works on a full disk too. Safe for concurrent use.
type seen struct {
	mu  sync.Mutex // guards all
	all map[string]time.Time
}

// maxSeen bounds the memory; above it the caller tries again a minute later at most.
const maxSeen = 4096

func newSeen() *seen { return &seen{all: map[string]time.Time{}} }

func (s *seen) use(jti string, expires, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.all[jti]; ok {
		return fault.New(fault.Unauthenticated, "service assertion refused: used before").WithReason("BAD_ASSERTION")
	}
	if len(s.all) >= maxSeen {
		for k, e := range s.all {
			if now.After(e) {
				delete(s.all, k)
			}
		}
		if len(s.all) >= maxSeen {
			return fault.New(fault.Exhausted, "too many Watch streams were opened").WithRetry(10 * time.Second)
		}
	}
	s.all[jti] = expires
	return nil
}

// Watch serves one subscriber.
func (s watchServer) Watch(stream grpc.BidiStreamingServer[mciasv1.WatchRequest, mciasv1.WatchResponse]) error {
	ctx := stream.Context()
	hello, svc, err := s.hello(ctx, stream)
	if err != nil {
		return err
	}
	sub, err := s.Hub.Subscribe(ctx, hello)
	if err != nil {
		return err
	}
	defer sub.Close()
	ended := make(chan error, 1)
	go func() { ended <- s.listen(stream, sub, hello) }() // ends with the stream
	t := time.NewTicker(beat)
	defer t.Stop()
	for {
		select {
		case m, ok := <-sub.C:
			if !ok {
				return fault.New(fault.Unavailable, "too slow, or the server is stopping: connect again and resume")
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-t.C:
			if _, err := s.Minter.Still(ctx, svc); err != nil {
				return err
			}
			if err := stream.Send(s.Hub.Heartbeat()); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Done:
			return fault.New(fault.Unavailable, "the server is stopping").WithReason("DRAINING")
		}
	}
}

// hello takes the first message and proves the caller by its service key.
func (s watchServer) hello(ctx context.Context, stream grpc.BidiStreamingServer[mciasv1.WatchRequest, mciasv1.WatchResponse]) (*mciasv1.WatchHello, *mint.Service, error) {
	first, err := recv(ctx, stream)
	if err != nil {
		return nil, nil, err
	}
	h := first.GetHello()
	if h == nil || h.GetService() == "" || h.GetInstance() == "" || len(h.GetService()) > 128 || len(h.GetInstance()) > 128 {
		return nil, nil, fault.Field1("hello", "the first message names service and instance")
	}
	svc, err := s.Minter.Prove(ctx, h.GetAssertion())
	if err != nil {
		return nil, nil, err
	}
	jti, exp := svc.JTI()
	if err := s.seen.use(jti, exp, s.Clock.Now()); err != nil {
		return nil, nil, err
	}
	if h.GetService() != svc.Account.Name {
		h.Service = h.GetService() + " (" + svc.Account.Name + ")" // nobody acknowledges in another's name
	}
	return h, svc, nil
}

// helloTime is how long a new stream may say nothing.
const helloTime = 10 * time.Second

func recv(ctx context.Context, stream grpc.BidiStreamingServer[mciasv1.WatchRequest, mciasv1.WatchResponse]) (*mciasv1.WatchRequest, error) {
	type result struct {
		m   *mciasv1.WatchRequest
		err error
	}
	c := make(chan result, 1)
	go func() { // ends with the stream at the latest
		m, err := stream.Recv()
		c <- result{m, err}
	}()
	t := time.NewTimer(helloTime)
	defer t.Stop()
	select {
	case r := <-c:
		return r.m, r.err
	case <-t.C:
		return nil, fault.New(fault.Timeout, "no hello within %s", helloTime)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listen takes acknowledgements until the stream ends.
func (s watchServer) listen(stream grpc.BidiStreamingServer[mciasv1.WatchRequest, mciasv1.WatchResponse], sub *revoke.Sub, h *mciasv1.WatchHello) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch {
		case m.GetAck() != nil:
			s.Hub.Ack(h.GetService(), h.GetInstance(), m.GetAck().GetSeq())
		case m.GetRefresh() != nil:
			sub.Refresh()
		default:
			return fault.Field1("message", "want ack or refresh")
		}
	}
}

// ListWatchers names every instance and how far it is.
func (s watchServer) ListWatchers(ctx context.Context, _ *mciasv1.ListWatchersRequest) (*mciasv1.ListWatchersResponse, error) {
	if err := s.may(ctx, "tokens:list", resource{name: "watchers"}); err != nil {
		return nil, err
	}
	return &mciasv1.ListWatchersResponse{Watchers: s.Hub.Watchers(), Seq: s.Hub.Seq(), StreamId: s.Hub.StreamID()}, nil
}

// GetKeys returns the platform key set.
func (s watchServer) GetKeys(context.Context, *mciasv1.GetKeysRequest) (*mciasv1.GetKeysResponse, error) {
	return &mciasv1.GetKeysResponse{Keys: s.Keys.Set(), Issuer: s.Issuer, StreamId: s.Hub.StreamID()}, nil
}
