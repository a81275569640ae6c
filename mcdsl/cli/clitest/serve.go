// Package clitest runs a whole service in a test, the way its binary does: configuration file, certificate, sockets,
// sign-in, signals left out. Imported by tests only.
//
//	srv := clitest.Serve(t, mcns.Service(), clitest.Options{Config: "[dns]\nlisten = \"127.0.0.1:0\"\n"})
//	conn := srv.Conn(t, srv.IDP.Token(mctest.Human("alice", "admin").For("mcns")))
package clitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/web/webtest"
)

// Options say what the service stands in.
type Options struct {
	CA     *mctest.CA        // nil = a new one
	IDP    *mctest.MCIAS     // nil = a new fake
	OP     *webtest.Provider // nil = a new one, unless IDP was given
	Config string            // further TOML: the service's own sections
	Args   []string          // further arguments of server
}

// Server is a running service.
type Server struct {
	Name   string
	Dir    string // root: Dir/<svc>/<svc>.toml
	CA     *mctest.CA
	IDP    *mctest.MCIAS
	OP     *webtest.Provider
	URL    string // https://<svc>.mc.localhost:port, "" without pages
	GRPC   string // host:port
	Socket string
	Log    *Log

	stop func()
	code chan int
}

// Log collects what the service writes. Safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Serve starts a service and returns when it is ready. It stops with the test.
func Serve[T any](t testing.TB, svc cli.Service[T], o Options) *Server {
	t.Helper()
	if o.CA == nil {
		o.CA = mctest.NewCA(t)
	}
	if o.IDP == nil {
		o.IDP = mctest.NewMCIAS(t, o.CA)
		o.OP = webtest.NewProvider(t, o.CA, o.IDP)
	}
	s := &Server{Name: svc.Name, Dir: t.TempDir(), CA: o.CA, IDP: o.IDP, OP: o.OP, Log: &Log{}, code: make(chan int, 1)}
	dir := filepath.Join(s.Dir, svc.Name)
	for _, d := range []string{dir, filepath.Join(s.Dir, "run")} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	key := ""
	if o.OP != nil {
		key = o.OP.KeyFile(t, svc.Name)
	} else {
		key = o.IDP.ServiceKey(t, svc.Name)
	}
	host := svc.Name + ".mc.localhost"
	pair := o.CA.Leaf(t, host)
	file := filepath.Join(dir, svc.Name+".toml")
	text := fmt.Sprintf(`[server]
listen_addr = "127.0.0.1:0"
grpc_addr = "127.0.0.1:0"
tls_cert = %q
tls_key = %q
socket = %q
local_admins = ["%d"]

[mcias]
server_url = %q
grpc_addr = %q
ca_cert = %q
key_file = %q

%s`, pair.CertFile, pair.KeyFile, filepath.Join(s.Dir, "run", svc.Name+".sock"), os.Getuid(), o.IDP.Issuer, o.IDP.Addr, o.CA.RootFile, key, o.Config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t, file, func(ctx context.Context, e *cli.Env, args []string) int { return cli.Run(ctx, svc, e, args) }, o.Args)
	return s
}

func (s *Server) start(t testing.TB, file string, run func(context.Context, *cli.Env, []string) int, more []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	started := make(chan []string, 1)
	e := s.Env()
	e.Err, e.Started = s.Log, func(a []string) { started <- a }
	go func() { s.code <- run(ctx, e, append([]string{"server", "--config", file}, more...)) }()
	s.stop = cancel
	t.Cleanup(func() { s.Stop(t) })
	select {
	case addrs := <-started:
		s.take(addrs)
		mctest.Eventually(t, s.Name+" has heard MCIAS", s.heard)
	case code := <-s.code:
		s.code <- code
		t.Fatalf("%s ended with code %d:\n%s", s.Name, code, s.Log)
	case <-time.After(20 * time.Second):
		t.Fatalf("%s is not ready after 20 s:\n%s", s.Name, s.Log)
	}
}

// take sorts the addresses: HTTPS first, then gRPC, then the socket.
func (s *Server) take(addrs []string) {
	for _, a := range addrs {
		_, port, err := net.SplitHostPort(a)
		switch {
		case err != nil || strings.HasPrefix(a, "/"):
			s.Socket = a
		case s.URL == "":
			s.URL = "https://" + s.Name + ".mc.localhost:" + port
		default:
			s.GRPC = s.Name + ".mc.localhost:" + port
		}
	}
}

// heard asks the service over its socket whether it has keys: a service never waits for MCIAS, a test does.
func (s *Server) heard() bool {
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", s.Socket)
		}}}
	res, err := c.Get("http://" + s.Name + "/v1/status")
	if err != nil {
		return false
	}
	defer func() { _ = res.Body.Close() }()
	var r health.Report
	if json.NewDecoder(res.Body).Decode(&r) != nil {
		return false
	}
	for _, f := range r.Findings {
		if f.Code == "mcias" && f.Severity == health.Fail {
			return false
		}
	}
	return true
}

// Stop ends the service and returns its exit code. Later calls do nothing.
func (s *Server) Stop(t testing.TB) int {
	t.Helper()
	s.stop()
	code := <-s.code
	s.code <- code
	return code
}

// Env returns the environment of a command line that speaks to the service; its output is discarded unless set.
func (s *Server) Env() *cli.Env {
	return &cli.Env{Service: s.Name, Root: s.Dir, CA: s.CA.RootFile, In: strings.NewReader(""), Out: &Log{}, Err: &Log{},
		Getenv: func(string) string { return "" }, Clock: clock.System()}
}

// Conn returns a gRPC connection over TLS that shows a token; "" shows none.
func (s *Server) Conn(t testing.TB, token string) *grpc.ClientConn {
	t.Helper()
	cfg := auth.DialConfig{Target: s.GRPC, Roots: s.CA.Roots(t)}
	if token != "" {
		cfg.Creds = bearer(token)
	}
	conn, err := auth.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

type bearer string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return true }

// Browser returns an HTTP client that keeps cookies, follows redirects and says where its requests start, as a browser
// does on the service's own pages.
func (s *Server) Browser(t testing.TB) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Timeout: 20 * time.Second, Transport: sameOrigin{s.CA.Roots(t).Transport(webtest.DialLoopback)}}
}

type sameOrigin struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (o sameOrigin) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet && r.Header.Get("Sec-Fetch-Site") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	return o.next.RoundTrip(r)
}
