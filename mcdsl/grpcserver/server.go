package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	"metacircular.net/mcdsl/audit"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/run"
)

// Limits of the gRPC side.
const (
	maxStreams      = 128      // of one connection
	maxHeaderList   = 64 << 10 // bytes
	handshakeTime   = 5 * time.Second
	pipeSize        = 256 << 10 // in-process buffer
	defaultDeadline = 30 * time.Second
	keepaliveEvery  = 20 * time.Second
	keepaliveWait   = 10 * time.Second
)

// Server serves one set of implementations on up to three transports. Safe for concurrent use.
type Server struct {
	conf   Config
	rules  auth.Map
	clock  clock.Clock
	log    *slog.Logger
	audit  audit.Sink
	health *health.Set

	inproc, tls, unix *grpc.Server // tls and unix are nil when not served
	pipe              *bufconn.Listener
	conn              *grpc.ClientConn
	web               http.Handler
	https, local      *httpserver.Server

	draining atomic.Bool
	streams  streams
	handlers sync.WaitGroup     // stream handlers, which may outlive their stream for a moment
	stopReg  context.CancelFunc // ends what the gateway's registration started

	mu                 sync.Mutex // guards the addresses
	httpAddr, grpcAddr net.Addr
	socket             *socket
	listeners          []net.Listener
}

// New builds a server and checks its rules against everything it offers. It listens nowhere yet, except in
// process.
func New(c Config) (*Server, error) {
	if c.Service == "" || c.Register == nil {
		return nil, errors.New("grpcserver: Service and Register are needed")
	}
	if (c.HTTPAddr != "" || c.GRPCAddr != "") && c.GetCertificate == nil {
		return nil, errors.New("grpcserver: TLS listeners need GetCertificate")
	}
	if c.MaxBody == 0 {
		c.MaxBody = httpserver.DefaultMaxBody
	}
	s := &Server{conf: c, clock: clock.Or(c.Clock), log: log.Or(c.Log), audit: c.Audit, health: c.Health}
	if s.audit == nil {
		s.audit = audit.Log(s.log)
	}
	if s.health == nil {
		s.health = health.New(c.Service, "")
	}
	if err := s.health.Validate(); err != nil {
		return nil, err
	}
	if err := s.build(); err != nil {
		return nil, fmt.Errorf("grpcserver: %w", err)
	}
	return s, nil
}

func (s *Server) build() (err error) {
	s.inproc = s.newGRPC(auth.InProcess, grpc.Creds(insecure.NewCredentials())) // bytes never leave the process
	if s.conf.GRPCAddr != "" {
		s.tls = s.newGRPC(auth.OverTLS, grpc.Creds(newTLSCreds(s.conf.GetCertificate, s.log)))
	}
	if s.conf.Socket != "" {
		s.unix = s.newGRPC(auth.OverUnix, grpc.Creds(unixCreds{}))
	}
	s.pipe = bufconn.Listen(pipeSize)
	if s.conn, err = s.dialInProcess(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopReg = cancel
	defer func() {
		if err != nil {
			cancel()
			_ = s.conn.Close()
		}
	}()
	rest, err := gateway.New(ctx, s.conn, s.conf.REST...)
	if err != nil {
		return err
	}
	routes, err := s.routes(rest)
	if err != nil {
		return err
	}
	if err := s.rules.Check(s.inproc.GetServiceInfo(), routes); err != nil {
		return fmt.Errorf("access rules: %w", err)
	}
	if s.https, err = httpserver.New(httpserver.Config{Service: s.conf.Service, Handler: s.web, GetCertificate: s.conf.GetCertificate,
		HostNames: s.conf.HostNames, Log: s.log, Metrics: s.conf.Metrics}); err != nil {
		return err
	}
	s.local, err = httpserver.New(httpserver.Config{Service: s.conf.Service, Handler: s.web, Log: s.log, Metrics: s.conf.Metrics})
	return err
}

// newGRPC makes the server of one transport, with the same implementations and the same chain.
func (s *Server) newGRPC(t auth.Transport, creds grpc.ServerOption) *grpc.Server {
	c := chain{Server: s, transport: t}
	unary, stream := []grpc.UnaryServerInterceptor{c.unary}, []grpc.StreamServerInterceptor{c.stream}
	for _, x := range s.conf.Extra {
		if x.Unary != nil {
			unary = append(unary, x.Unary)
		}
		if x.Stream != nil {
			stream = append(stream, x.Stream)
		}
	}
	every := s.conf.Keepalive
	if every == 0 {
		every = keepaliveEvery
	}
	g := grpc.NewServer(creds,
		grpc.ChainUnaryInterceptor(unary...), grpc.ChainStreamInterceptor(stream...),
		grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(maxHeaderList), grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: every, Timeout: keepaliveWait}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	s.conf.Register(g)
	grpc_health_v1.RegisterHealthServer(g, healthService{s})
	reflection.Register(g)
	return g
}

// InProcess returns the connection on which REST and pages call the server. Calls with the context of a request
// carry its origin and its caller.
func (s *Server) InProcess() *grpc.ClientConn { return s.conn }

// Start listens on every address and returns; the server works when it does. ctx must outlive the server.
func (s *Server) Start(ctx context.Context) error {
	go func() {
		if err := s.inproc.Serve(s.pipe); err != nil {
			run.Fail(ctx, fmt.Errorf("serve in process: %w", err))
		}
	}()
	if err := s.listen(ctx); err != nil {
		for _, l := range s.listeners {
			_ = l.Close()
		}
		return err
	}
	return nil
}

func (s *Server) listen(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conf.HTTPAddr != "" {
		ln, err := httpserver.Listen(ctx, s.conf.HTTPAddr, s.conf.Proxy, s.log)
		if err != nil {
			return err
		}
		s.listeners, s.httpAddr = append(s.listeners, ln), ln.Addr()
		s.https.Serve(ctx, ln)
	}
	if s.conf.GRPCAddr != "" {
		ln, err := httpserver.Listen(ctx, s.conf.GRPCAddr, s.conf.Proxy, s.log)
		if err != nil {
			return err
		}
		s.listeners, s.grpcAddr = append(s.listeners, ln), ln.Addr()
		s.serveGRPC(ctx, s.tls, ln)
	}
	if s.conf.Socket != "" {
		sock, err := s.listenSocket(s.conf.Socket)
		if err != nil {
			return err
		}
		s.listeners, s.socket = append(s.listeners, sock), sock
		s.serveGRPC(ctx, s.unix, sock.grpc)
		s.local.Serve(ctx, sock.http)
		sock.start(ctx)
	}
	return nil
}

func (s *Server) serveGRPC(ctx context.Context, g *grpc.Server, ln net.Listener) {
	go func() {
		if err := g.Serve(ln); err != nil {
			run.Fail(ctx, fmt.Errorf("serve gRPC on %s: %w", ln.Addr(), err))
		}
	}()
}

// HTTPAddr returns the bound address of REST and pages, "" if not served.
func (s *Server) HTTPAddr() string { return s.addr(&s.httpAddr) }

// GRPCAddr returns the bound address of gRPC, "" if not served.
func (s *Server) GRPCAddr() string { return s.addr(&s.grpcAddr) }

func (s *Server) addr(a *net.Addr) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *a == nil {
		return ""
	}
	return (*a).String()
}

// SocketPath returns where the Unix socket really is: a path too long for the kernel moves (see SocketFor).
func (s *Server) SocketPath() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.socket == nil {
		return ""
	}
	return s.socket.path
}

// Health returns the checks that the server answers from.
func (s *Server) Health() *health.Set { return s.health }

// Rules returns the rules in force, with those the server brings itself.
func (s *Server) Rules() auth.Map { return s.rules }

// Drain stops taking work: the service is not ready, open streams end with Unavailable, DRAINING, and new calls
// are refused so. Stop does it first.
func (s *Server) Drain() {
	if s.draining.Swap(true) {
		return
	}
	s.health.Drain()
	s.streams.endAll(errDraining())
}

// Stop drains, lets calls under way finish until ctx ends, and closes.
func (s *Server) Stop(ctx context.Context) error {
	s.Drain()
	err := errors.Join(s.https.Stop(ctx), s.local.Stop(ctx))
	for _, g := range []*grpc.Server{s.tls, s.unix, s.inproc} {
		if g != nil {
			graceful(ctx, g)
		}
	}
	s.waitHandlers(ctx)
	s.stopReg()
	err = errors.Join(err, s.conn.Close())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range slices.Backward(s.listeners) {
		_ = l.Close() // most are closed by their server already
	}
	return err
}

// graceful waits for calls under way, and cuts them when ctx ends.
func graceful(ctx context.Context, g *grpc.Server) {
	done := make(chan struct{})
	go func() {
		g.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		g.Stop() // which ends the other one, too
		<-done
	}
}

// waitHandlers waits for stream handlers that outlive their stream, as long as ctx allows.
func (s *Server) waitHandlers(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.handlers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.log.Warn("a stream's handler does not end")
	}
}
