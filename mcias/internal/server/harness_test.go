package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/secret"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/command"
)

const (
	unsealPassword = "violet anchors drift westward"
	adminPassword  = "quiet lanterns over granite"
	bobPassword    = "marble otters hum softly"
)

// logBuffer collects what a server prints. Safe for concurrent use.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// platform is a real server over TLS with its socket, made by the real command line.
type platform struct {
	t        *testing.T
	ca       *mctest.CA
	root     string
	issuer   string
	grpcAddr string
	log      *logBuffer
	cancel   context.CancelFunc
	done     chan int
	local    *grpc.ClientConn
	public   *grpc.ClientConn
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (p *platform) env(args ...string) (*cli.Env, []string) {
	e := cli.NewEnv("mcias")
	e.In, e.Terminal = strings.NewReader(""), false
	return e, append([]string{"--root", p.root}, args...)
}

// run runs a command and returns its exit code and output.
func (p *platform) run(args ...string) (int, string, string) {
	p.t.Helper()
	e, args := p.env(args...)
	var out, errs bytes.Buffer
	e.Out, e.Err = &out, &errs
	code := cli.Run(context.Background(), command.Service(), e, args)
	return code, out.String(), errs.String()
}

func (p *platform) file(name, text string) string {
	p.t.Helper()
	f := filepath.Join(p.root, name)
	if err := secret.WriteFile(f, []byte(text)); err != nil {
		p.t.Fatal(err)
	}
	return f
}

// newPlatform makes and starts one, unsealed, with the admin's password set.
func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t, ca: mctest.NewCA(t), root: t.TempDir(), log: &logBuffer{}}
	https, grpcPort := freePort(t), freePort(t)
	p.issuer, p.grpcAddr = "https://mcias.mc.localhost:"+https, "mcias.mc.localhost:"+grpcPort
	leaf := p.ca.Leaf(t, "mcias.mc.localhost")
	conf := fmt.Sprintf("[server]\nlisten_addr = \"127.0.0.1:%s\"\ngrpc_addr = \"127.0.0.1:%s\"\ntls_cert = %q\ntls_key = %q\nsocket = \"../run/mcias.sock\"\n[mcias]\nca_cert = %q\n"+
		"[tokens]\nissuer = %q\n[keys]\nrsa_bits = 2048\n[argon2]\nmemory = \"19MiB\"\ntime = 2\nthreads = 1\n[vault]\ncredential_file = \"credential\"\n", https, grpcPort, leaf.CertFile, leaf.KeyFile, p.ca.RootFile, p.issuer)
	for _, d := range []string{"mcias", "run"} {
		if err := os.MkdirAll(filepath.Join(p.root, d), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	p.file("mcias/mcias.toml", conf)
	p.file("pw", unsealPassword)
	p.file("admin", adminPassword)
	out := func(n string) string { return filepath.Join(p.root, n) }
	if code, _, e := p.run("init", "--admin", "alice", "--unseal-password-file", out("pw"), "--setup-out", out("link"), "--operator-key-out", out("operator.json")); code != 0 {
		t.Fatalf("init: %s", e)
	}
	p.start()
	t.Cleanup(p.stop)
	return p
}

// ready makes the platform usable: unsealed, the admin's password set.
func (p *platform) ready() *platform {
	p.t.Helper()
	out := func(n string) string { return filepath.Join(p.root, n) }
	if code, _, e := p.run("--addr", "local", "unseal", "--password-file", out("pw")); code != 0 {
		p.t.Fatalf("unseal: %s", e)
	}
	if code, _, e := p.run("--addr", "local", "setup", "--link-file", out("link"), "--password-file", out("admin")); code != 0 {
		p.t.Fatalf("setup: %s", e)
	}
	return p
}

func (p *platform) start() {
	p.t.Helper()
	e, args := p.env("server")
	e.Err = p.log
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan int, 1)
	go func() { p.done <- cli.Run(ctx, command.Service(), e, args) }()
	hosts := hostmap.Open("")
	var err error
	if p.public, err = auth.Dial(auth.DialConfig{Target: p.grpcAddr, Hosts: hosts, Roots: p.ca.Roots(p.t)}); err != nil {
		p.t.Fatal(err)
	}
	e2, _ := p.env()
	e2.Root = p.root
	mctest.Eventually(p.t, "the server starts", func() bool {
		_, err := mciasv1.NewVaultClient(p.public).Status(context.Background(), &mciasv1.VaultStatusRequest{})
		return err == nil
	})
	if p.local, err = e2.DialLocal("mcias"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *platform) stop() {
	if p.cancel == nil {
		return
	}
	_ = p.local.Close()
	_ = p.public.Close()
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(25 * time.Second):
		p.t.Error("the server does not stop")
	}
	p.cancel = nil
}

// browser is an HTTP client with cookies that follows nothing by itself.
func (p *platform) browser() *http.Client {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	tr := p.ca.Roots(p.t).Transport(hostmap.Open("").DialContext)
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do sends a request the way a page of ours does.
func (p *platform) do(c *http.Client, method, path string, form url.Values, edit ...func(*http.Request)) (*http.Response, string) {
	p.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	if strings.HasPrefix(path, "/") {
		path = p.issuer + path
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, e := range edit {
		e(req)
	}
	res, err := c.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res, string(data)
}

// signIn signs a browser in by the page.
func (p *platform) signIn(c *http.Client, user, password string) {
	p.t.Helper()
	if res, body := p.do(c, "POST", "/login", url.Values{"username": {user}, "password": {password}}); res.StatusCode != 200 || res.Header.Get("Refresh") == "" {
		p.t.Fatalf("sign in as %s: %s\n%s", user, res.Status, body)
	}
}

func (p *platform) login(user, password string, audiences ...string) *mciasv1.LoginResponse {
	p.t.Helper()
	res, err := mciasv1.NewAuthClient(p.public).Login(p.t.Context(), &mciasv1.LoginRequest{Username: user, Password: password, Audiences: audiences})
	if err != nil {
		p.t.Fatalf("login as %s: %v", user, err)
	}
	return res
}

// as returns a context whose calls show a token.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// person makes an account with a password.
func (p *platform) person(name, password string, roles ...string) {
	p.t.Helper()
	if _, err := mciasv1.NewAccountClient(p.local).Create(p.t.Context(), &mciasv1.AccountCreateRequest{Name: name, Roles: roles, Password: password}); err != nil {
		p.t.Fatal(err)
	}
}

// service makes a system account with key file and, if uris are given, a client of kind service.
func (p *platform) service(name string, tags []string, uris ...string) (key *auth.ServiceKey, clientSecret string) {
	p.t.Helper()
	f := filepath.Join(p.root, name+"-key.json")
	args := []string{"--addr", "local", "service", "create", name, "--out", f}
	for _, t := range tags {
		args = append(args, "--tag", t)
	}
	if code, _, e := p.run(args...); code != 0 {
		p.t.Fatalf("service create: %s", e)
	}
	if len(uris) > 0 {
		res, err := mciasv1.NewClientClient(p.local).Create(p.t.Context(), &mciasv1.ClientCreateRequest{Id: name, Kind: "service", RedirectUris: uris})
		if err != nil {
			p.t.Fatal(err)
		}
		clientSecret = res.GetClientSecret()
	}
	return auth.OpenServiceKey(f, p.issuer), clientSecret
}

func (p *platform) assertion(k *auth.ServiceKey) string {
	p.t.Helper()
	s, err := k.Assertion(time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *platform) mint(r *mciasv1.MintRequest) (*mciasv1.MintResponse, error) {
	return mciasv1.NewTokenClient(p.public).Mint(p.t.Context(), r)
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return m
}
