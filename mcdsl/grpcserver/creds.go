package grpcserver

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/log"
)

// tlsCreds logs failed handshakes, which gRPC itself swallows.
type tlsCreds struct {
	credentials.TransportCredentials
	log *slog.Logger
}

func newTLSCreds(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), logger *slog.Logger) credentials.TransportCredentials {
	return tlsCreds{credentials.NewTLS(httpserver.TLSConfig(get, "h2")), logger}
}

// ServerHandshake implements credentials.TransportCredentials.
func (t tlsCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		t.log.Warn("TLS handshake failed", "client", httpserver.AddrOf(raw.RemoteAddr()).String(), log.Err(err))
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (t tlsCreds) Clone() credentials.TransportCredentials {
	return tlsCreds{t.TransportCredentials.Clone(), t.log}
}

// localInfo is who is at the other end of a Unix connection.
type localInfo struct {
	credentials.CommonAuthInfo
	caller auth.Caller
}

// AuthType implements credentials.AuthInfo.
func (localInfo) AuthType() string { return "unix" }

// unixCreds hands the socket's caller on to the chain.
type unixCreds struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (unixCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	l, ok := c.(*localConn)
	if !ok {
		return nil, nil, errors.New("not a connection of our socket")
	}
	return c, localInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, l.caller}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (unixCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server side only")
}

// Info implements credentials.TransportCredentials.
func (unixCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

// Clone implements credentials.TransportCredentials.
func (u unixCreds) Clone() credentials.TransportCredentials { return u }

// OverrideServerName implements credentials.TransportCredentials.
func (unixCreds) OverrideServerName(string) error { return nil }

// dialInProcess returns the connection for REST and pages. It carries the origin and caller of the request whose
// context it is used with, and brings back for the edge's log line who it was.
func (s *Server) dialInProcess() (*grpc.ClientConn, error) {
	learn := func(ctx context.Context, method string) {
		if call := auth.CallFrom(ctx); call != nil && call.Method == "" {
			httpserver.SetRoute(ctx, method)
		}
	}
	return grpc.NewClient("passthrough:///"+s.conf.Service,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.pipe.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a pipe inside this process
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			learn(ctx, method)
			trailer := newTrailer()
			err := invoke(auth.Outgoing(ctx), method, req, reply, cc, append(opts, grpc.Trailer(trailer))...)
			if call := auth.CallFrom(ctx); call != nil && call.Method == "" {
				call.Learn(*trailer)
			}
			return err
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			learn(ctx, method)
			return open(auth.Outgoing(ctx), desc, cc, method, opts...)
		}))
}
