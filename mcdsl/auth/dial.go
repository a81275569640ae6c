package auth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/tlsutil"
)

// DialConfig says how to reach another service.
type DialConfig struct {
	Target  string                        // host:port, e.g. "mcias.mc.localhost:9443"; the host is the name its certificate must bear
	Hosts   *hostmap.Map                  // addresses of platform names; nil knows *.localhost only
	Roots   *tlsutil.Roots                // the platform's root; re-read for each connection
	Creds   credentials.PerRPCCredentials // Tokens for the peer's audience; nil = calls show no token of their own
	Options []grpc.DialOption             // more
}

// dialPace is the pace of reconnecting: a peer that comes back is reached within seconds.
func dialPace() backoff.Config {
	return backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}
}

// Dial returns a gRPC connection to a service by its name: TLS 1.3, the server's name checked against the
// platform's root, the address from the host map. It connects at the first call and never fails because the peer
// is away.
//
//	toMCIAS, err := auth.Dial(auth.DialConfig{Target: "mcias.mc.localhost:9443", Hosts: hosts, Roots: roots})
//	tokens := auth.Tokens(key, toMCIAS, "mcr")
//	toMCR, err := auth.Dial(auth.DialConfig{Target: "mcr.mc.localhost:9443", Hosts: hosts, Roots: roots, Creds: tokens})
func Dial(c DialConfig) (*grpc.ClientConn, error) {
	host, _, err := net.SplitHostPort(c.Target)
	if err != nil {
		return nil, fmt.Errorf("dial %q: want host:port", c.Target)
	}
	if c.Roots == nil {
		return nil, errors.New("dial: no roots to check the server with")
	}
	opts := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return c.Hosts.DialContext(ctx, "tcp", addr) }),
		grpc.WithTransportCredentials(c.Roots.Credentials(host)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: dialPace(), MinConnectTimeout: 5 * time.Second}),
	}
	if c.Creds != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(c.Creds))
		if t, ok := c.Creds.(*TokenSource); ok {
			opts = append(opts, grpc.WithChainUnaryInterceptor(t.Unary))
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+c.Target, append(opts, c.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", c.Target, err)
	}
	return conn, nil
}
