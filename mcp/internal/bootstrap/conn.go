package bootstrap

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"metacircular.net/mcdsl/fault"
)

// sockets keeps one connection per service's Unix socket. The kernel says who we are there, so no TLS and no token.
type sockets struct {
	layout Layout
	conns  map[string]*grpc.ClientConn
}

func newSockets(l Layout) *sockets { return &sockets{layout: l, conns: map[string]*grpc.ClientConn{}} }

func (s *sockets) dial(service string) (*grpc.ClientConn, error) {
	if c := s.conns[service]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("unix:"+s.layout.socket(service), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dial %s's socket: %w", service, err)
	}
	s.conns[service] = c
	return c, nil
}

func (s *sockets) close() {
	for _, c := range s.conns {
		c.Close()
	}
}

// await calls probe until it succeeds, its failure is one that waiting does not mend, or limit has passed.
func await(ctx context.Context, what string, limit time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		// What the end of the wait itself caused says nothing: keep the reason from before.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if !waitable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Unavailable, "%s did not answer within %s", what, limit).Wrap(last)
		case <-tick.C:
		}
	}
}

func waitable(err error) bool {
	switch fault.Of(err) {
	case fault.Unavailable, fault.Timeout, fault.Unauthenticated:
		return true
	}
	return false
}
