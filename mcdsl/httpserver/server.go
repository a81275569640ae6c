package httpserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/metrics"
	"metacircular.net/mcdsl/run"
)

// The limits of the HTTP edge.
const (
	HeaderTime     = 5 * time.Second
	IdleTime       = 90 * time.Second
	MaxHeader      = 64 << 10
	DefaultMaxBody = 1 << 20
	MaxStreams     = 128 // of one HTTP/2 connection
)

// Config says what a server serves.
type Config struct {
	Service        string
	Handler        http.Handler
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error) // nil = no TLS: the Unix socket
	HostNames      []string                                             // empty = any
	Log            *slog.Logger
	Metrics        *metrics.Registry
}

// Server serves HTTP on listeners it is given. Safe for concurrent use.
type Server struct {
	http *http.Server
	tls  bool
}

// New returns a server.
func New(c Config) (*Server, error) {
	if c.Handler == nil {
		return nil, errors.New("httpserver: no handler")
	}
	e := &edge{conf: c, log: log.Or(c.Log), next: c.Handler, hosts: map[string]bool{}}
	for _, h := range c.HostNames {
		e.hosts[strings.ToLower(h)] = true
	}
	srv := &http.Server{
		Handler: e, ConnContext: e.connContext,
		ReadHeaderTimeout: HeaderTime, IdleTimeout: IdleTime, MaxHeaderBytes: MaxHeader,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: MaxStreams},
		ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelWarn), // failed handshakes, with reason and peer
	}
	if c.GetCertificate != nil {
		srv.TLSConfig = TLSConfig(c.GetCertificate, "h2", "http/1.1")
	}
	return &Server{http: srv, tls: c.GetCertificate != nil}, nil
}

// TLSConfig returns what every listener of ours uses: TLS 1.3 only, key exchange left to Go.
func TLSConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), protos ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: get, NextProtos: protos}
}

// Serve serves a listener until Stop. It returns at once; a listener that dies stops the group of ctx.
func (s *Server) Serve(ctx context.Context, ln net.Listener) {
	go func() {
		var err error
		if s.tls {
			err = s.http.ServeTLS(ln, "", "")
		} else {
			err = s.http.Serve(ln)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			run.Fail(ctx, fmt.Errorf("serve %s: %w", ln.Addr(), err))
		}
	}()
}

// Stop takes no more requests and waits for those under way until ctx ends, then cuts them.
func (s *Server) Stop(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}
