package command_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/httpserver"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/app"
	"metacircular.net/mc-proxy/internal/command"
)

// TestMain lets a test run this binary as the proxy itself, to be killed.
func TestMain(m *testing.M) {
	if args := os.Getenv("MC_PROXY_TEST_CHILD"); args != "" {
		e := cli.NewEnv(app.Name)
		e.Started = func([]string) { fmt.Println("started") }
		os.Exit(cli.Run(context.Background(), command.Service(), e, strings.Split(args, " ")))
	}
	os.Exit(m.Run())
}

// child starts the proxy as a process of its own and returns how to kill it.
func (p *proxy) child() (kill func()) {
	p.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MC_PROXY_TEST_CHILD=server --config "+filepath.Join(p.dir, "mc-proxy", "mc-proxy.toml"))
	cmd.Stderr = p.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "started\n" {
		kill()
		p.t.Fatalf("child said %q, %v\n%s", line, err, p.log)
	}
	return kill
}

func TestKillDuringWrites(t *testing.T) {
	t.Parallel()
	rounds := 4
	if os.Getenv("MC_SOAK") != "" {
		rounds = 100
	}
	p := newProxy(t, "")
	acknowledged := map[string]int64{} // hostname → revision
	for round := range rounds {
		kill := p.child()
		cl := p.routes()
		killed, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; ; i++ {
				host := fmt.Sprintf("r%d-%d.test", round, i%20)
				resp, err := cl.PutRoute(context.Background(), &mcproxyv1.PutRouteRequest{Spec: l4(host, fmt.Sprintf("127.0.0.1:%d", 1000+i))})
				if err != nil {
					return
				}
				acknowledged[host] = resp.GetRoute().GetRevision()
				if i == 25+round*7 {
					go func() { kill(); close(killed) }() // at whatever moment of the following writes
				}
			}
		}()
		<-done
		<-killed
		p.conn.Close()
		p.conn = nil
	}
	kill := p.child()
	defer kill()
	resp, err := p.routes().ListRoutes(t.Context(), &mcproxyv1.ListRoutesRequest{PageSize: 500})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]int64{}
	for _, r := range resp.GetRoutes() {
		have[r.GetSpec().GetHostname()] = r.GetRevision()
		if len(r.GetSpec().GetBackends()) != 1 {
			t.Errorf("%s is half applied: %v", r.GetSpec().GetHostname(), r)
		}
	}
	for host, rev := range acknowledged {
		if have[host] < rev {
			t.Errorf("%s is at revision %d, acknowledged was %d", host, have[host], rev)
		}
	}
	if code, out := p.run("doctor"); code != 0 && strings.Contains(out, "FAIL  database") {
		t.Errorf("doctor = %d %s", code, out)
	}
}

// TestProxyHeaderToACoreService stands a service's own listener behind the proxy: it believes the header for its key.
func TestProxyHeaderToACoreService(t *testing.T) {
	t.Parallel()
	key := strings.Repeat("ab", 32)
	p := newProxy(t, "")
	p.file("hop.key", []byte(key+"\n"))
	p.start()
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = 0xab
	}
	ln, err := httpserver.Listen(t.Context(), "127.0.0.1:0", httpserver.Proxy{Trusted: prefixes("127.0.0.0/8"), Key: raw}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }), TLSConfig: p.tlsServer("core.test")}
	go func() { _ = s.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { _ = s.Close() })
	r := l4("core.test", ln.Addr().String())
	r.ProxyOut, r.ProxyKey = mcproxyv1.ProxyOut_PROXY_OUT_V2, "hop.key"
	p.put(r)
	c := p.http(false)
	var local string
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.https)
		if err == nil {
			local = conn.LocalAddr().String()
		}
		return conn, err
	}
	if code, body := get(t, c, "https://core.test/"); code != 200 || body != local {
		t.Errorf("the service saw %q (%d), want %q", body, code, local)
	}
	// Without the key the service closes the connection.
	r.ProxyKey = ""
	p.put(r)
	c.Transport.(*http.Transport).CloseIdleConnections()
	if _, err := c.Get("https://core.test/"); err == nil {
		t.Error("a header without the hop key was believed")
	}
}

// TestProxyHeaderIn reads headers from trusted sources only, and refuses what is no header.
func TestProxyHeaderIn(t *testing.T) {
	t.Parallel()
	edge, shut := freeAddr(t), freeAddr(t)
	p := newProxy(t, fmt.Sprintf(`
[[listener]]
name = "edge-in"
kind = "tls"
addrs = [%q]
proxy_protocol = true
trusted_sources = ["127.0.0.1"]
[[listener]]
name = "far-in"
kind = "tls"
addrs = [%q]
proxy_protocol = true
trusted_sources = ["192.0.2.1"]
`, edge, shut))
	p.cert("p.test.pem", "p.test")
	p.start()
	r := l7("p.test", p.backend(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header.Get("X-Forwarded-For")) })))
	for _, listener := range []string{"edge-in", "far-in"} {
		r.Listener = listener
		p.put(r)
	}
	v2 := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), 198, 51, 100, 7, 192, 0, 2, 1, 0, 0, 1, 187)
	binary.BigEndian.PutUint16(v2[24:], 5555)
	for name, c := range map[string]struct {
		addr, header, want string
	}{
		"v1":        {edge, "PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n", "198.51.100.7"},
		"v1 ipv6":   {edge, "PROXY TCP6 2001:db8::7 2001:db8::1 5555 443\r\n", "2001:db8::7"},
		"v2":        {edge, string(v2), "198.51.100.7"},
		"unknown":   {edge, "PROXY UNKNOWN\r\n", "127.0.0.1"},
		"garbage":   {edge, "GET / HTTP/1.1\r\n\r\n", ""},
		"untrusted": {shut, "PROXY TCP4 198.51.100.7 192.0.2.1 5555 443\r\n", ""},
	} {
		for _, size := range []int{1, 1000} {
			raw, err := net.Dial("tcp", c.addr)
			if err != nil && c.want == "" {
				continue // the reset came before connect returned
			}
			if err != nil {
				t.Fatal(err)
			}
			client := p.http(false)
			client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return raw, nil }
			_, _ = io.WriteString(&dribble{Conn: raw, size: size}, c.header)
			resp, err := client.Get("https://p.test/")
			if c.want == "" {
				if err == nil {
					t.Errorf("%s was accepted", name)
				}
				raw.Close()
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if string(b) != c.want {
				t.Errorf("%s: client %q, want %q", name, b, c.want)
			}
			raw.Close()
		}
	}
}
