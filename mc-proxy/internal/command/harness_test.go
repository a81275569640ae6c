package command_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/mctest"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/app"
	"metacircular.net/mc-proxy/internal/command"
)

// proxy is a whole mc-proxy in this process, with its command line.
type proxy struct {
	t                  *testing.T
	dir                string
	ca                 *mctest.CA
	https, grpc, plain string // addresses
	stop               func() int
	conn               *grpc.ClientConn
	log                *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// freeAddr returns a loopback address that was free a moment ago.
func freeAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// newProxy prepares a folder with a configuration; extra is added to it.
func newProxy(t *testing.T, extra string) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "mcp") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &proxy{t: t, dir: dir, ca: mctest.NewCA(t), https: freeAddr(t), grpc: freeAddr(t), plain: freeAddr(t), log: &syncBuffer{}}
	for _, d := range []string{"run", "mc-proxy/certs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	p.file("certs/ca.pem", p.read(p.ca.RootFile))
	_, port, _ := net.SplitHostPort(p.https)
	p.config(fmt.Sprintf(`
[[listener]]
name = "https"
kind = "tls"
addrs = [%q]
[[listener]]
name = "grpc"
kind = "tls"
addrs = [%q]
[[listener]]
name = "http"
kind = "redirect"
to = "https"
https_port = %s
addrs = [%q]
%s`, p.https, p.grpc, port, p.plain, extra))
	return p
}

// config writes the configuration with the given listeners and routes.
func (p *proxy) config(body string) {
	p.t.Helper()
	p.file("mc-proxy.toml", []byte(fmt.Sprintf(`
[server]
socket = %q
[log]
format = "json"
[admin]
write = ["root", "%d"]
[tls]
cert_dir = "certs"
roots = "certs/ca.pem"
`, p.socket(), os.Geteuid())+body))
}

func (p *proxy) socket() string { return filepath.Join(p.dir, "run", "mc-proxy.sock") }

func (p *proxy) file(name string, data []byte) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, "mc-proxy", name), data, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *proxy) read(file string) []byte {
	p.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	return data
}

// cert puts a certificate for names into cert_dir, key and chain in one file.
func (p *proxy) cert(file string, names ...string) {
	p.t.Helper()
	pair := p.ca.Leaf(p.t, names...)
	p.file("certs/"+file, append(p.read(pair.KeyFile), p.read(pair.CertFile)...))
}

// start runs the server until the test ends or stop is called.
func (p *proxy) start() *proxy {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	e := cli.NewEnv(app.Name)
	e.Out, e.Err = p.log, p.log
	done := make(chan int, 1)
	ready := make(chan struct{})
	e.Started = func([]string) { close(ready) }
	go func() {
		done <- cli.Run(ctx, command.Service(), e, []string{"server", "--config", filepath.Join(p.dir, "mc-proxy", "mc-proxy.toml")})
	}()
	var once sync.Once
	code := -1
	p.stop = func() int {
		once.Do(func() {
			if p.conn != nil {
				p.conn.Close()
				p.conn = nil
			}
			cancel()
			code = <-done
		})
		return code
	}
	p.t.Cleanup(func() {
		p.stop()
		if p.t.Failed() {
			p.t.Logf("log of the proxy:\n%s", p.log)
		}
	})
	select {
	case <-ready:
	case c := <-done:
		done <- c
		p.t.Fatalf("the proxy ended with %d", c)
	case <-time.After(20 * time.Second):
		p.t.Fatal("the proxy did not become ready")
	}
	return p
}

// run runs a command and returns its exit code and output.
func (p *proxy) run(args ...string) (int, string) {
	p.t.Helper()
	e := cli.NewEnv(app.Name)
	var out, errs bytes.Buffer
	e.In, e.Out, e.Err, e.Terminal = strings.NewReader(""), &out, &errs, false
	code := cli.Run(p.t.Context(), command.Service(), e, append([]string{"--root", p.dir}, args...))
	return code, out.String() + errs.String()
}

// must runs a command that has to succeed.
func (p *proxy) must(args ...string) string {
	p.t.Helper()
	code, out := p.run(args...)
	if code != 0 {
		p.t.Fatalf("mc-proxy %s = %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (p *proxy) client() *grpc.ClientConn {
	p.t.Helper()
	if p.conn == nil {
		c, err := grpc.NewClient("unix:"+p.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			p.t.Fatal(err)
		}
		p.conn = c
	}
	return p.conn
}

func (p *proxy) routes() mcproxyv1.RouteServiceClient {
	return mcproxyv1.NewRouteServiceClient(p.client())
}

// put states an L4 or L7 route and returns it.
func (p *proxy) put(spec *mcproxyv1.RouteSpec) *mcproxyv1.Route {
	p.t.Helper()
	resp, err := p.routes().PutRoute(p.t.Context(), &mcproxyv1.PutRouteRequest{Spec: spec})
	if err != nil {
		p.t.Fatalf("PutRoute: %v", err)
	}
	return resp.GetRoute()
}

func l4(host string, addrs ...string) *mcproxyv1.RouteSpec {
	return spec(mcproxyv1.RouteMode_ROUTE_MODE_L4, host, addrs...)
}

func l7(host string, addrs ...string) *mcproxyv1.RouteSpec {
	s := spec(mcproxyv1.RouteMode_ROUTE_MODE_L7, host, addrs...)
	s.TlsCert = host + ".pem"
	return s
}

func spec(mode mcproxyv1.RouteMode, host string, addrs ...string) *mcproxyv1.RouteSpec {
	s := &mcproxyv1.RouteSpec{Listener: "https", Hostname: host, Mode: mode, Owner: "mcp"}
	for _, a := range addrs {
		s.Backends = append(s.Backends, &mcproxyv1.BackendSpec{Addr: a})
	}
	return s
}

// swap gives one route new backends and returns the committed event.
func (p *proxy) swap(ctx context.Context, req *mcproxyv1.SwapRequest) (*mcproxyv1.SwapCommitted, error) {
	stream, err := p.routes().Swap(ctx, req)
	if err != nil {
		return nil, err
	}
	var out *mcproxyv1.SwapCommitted
	for {
		ev, err := stream.Recv()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if c := ev.GetCommitted(); c != nil {
			out = c
		}
	}
}

func swapItem(id, rev int64, addrs ...string) *mcproxyv1.SwapItem {
	set := &mcproxyv1.Backends{}
	for _, a := range addrs {
		set.Backends = append(set.Backends, &mcproxyv1.BackendSpec{Addr: a})
	}
	return &mcproxyv1.SwapItem{Route: &mcproxyv1.RouteRef{Id: id}, IfRevision: &rev, Change: &mcproxyv1.SwapItem_Backends{Backends: set}}
}

// tlsConfig trusts the platform.
func (p *proxy) tlsConfig(name string, protos ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: p.ca.Pool(), ServerName: name, NextProtos: protos}
}

// http returns a client that reaches every name through the proxy; h2 says which HTTP it speaks.
func (p *proxy) http(h2 bool) *http.Client {
	var pr http.Protocols
	pr.SetHTTP1(!h2)
	pr.SetHTTP2(h2)
	tr := &http.Transport{Protocols: &pr, DisableCompression: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: p.ca.Pool()},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to := p.https
			if _, port, _ := net.SplitHostPort(addr); port == "80" {
				to = p.plain
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", to)
		}}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get fetches a URL and returns status and body.
func get(t testing.TB, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("GET %s: body: %v", url, err)
	}
	return resp.StatusCode, string(b)
}

// tlsBackend serves h over TLS as name, as an L4 route's backend does.
func (p *proxy) tlsBackend(name string, h http.Handler) string {
	p.t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: p.ca.Certificate(p.t, name), NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		p.t.Fatal(err)
	}
	return serve(p.t, ln, h)
}

// backend serves h in the clear, HTTP/1 and h2c.
func (p *proxy) backend(h http.Handler) string {
	p.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	return serve(p.t, ln, h)
}

func (p *proxy) tlsServer(name string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: p.ca.Certificate(p.t, name)}
}

func prefixes(set ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range set {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func serve(t *testing.T, ln net.Listener, h http.Handler) string {
	var pr http.Protocols
	pr.SetHTTP1(true)
	pr.SetHTTP2(true)
	pr.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &pr, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)} // checks connect and leave
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	return ln.Addr().String()
}

func says(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
}

func decodeJSON[T any](t *testing.T, data string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}
