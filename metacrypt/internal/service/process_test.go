package service_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/secret"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/service"
)

// TestMain lets the test binary be the service: what is tested is a process, with its sockets, signals and files.
func TestMain(m *testing.M) {
	if os.Getenv("MC_TEST_MAIN") == "metacrypt" {
		os.Exit(cli.Main(context.Background(), service.Metacrypt(), os.Args[1:]))
	}
	os.Exit(m.Run())
}

const host = "metacrypt.mc.localhost"

// process is a running metacrypt with its root folder.
type process struct {
	root string
	ca   *mctest.CA
	idp  *mctest.MCIAS
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
	log  *output
	http string
	grpc string
}

// prepare makes a platform's folder with a configuration.
func prepare(t *testing.T) *process {
	t.Helper()
	p := &process{root: t.TempDir(), ca: mctest.NewCA(t)}
	p.idp = mctest.NewMCIAS(t, p.ca)
	dir := filepath.Join(p.root, "metacrypt")
	for _, d := range []string{dir, filepath.Join(p.root, "run")} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	pair := p.ca.Leaf(t, host)
	p.http, p.grpc = freePort(t), freePort(t)
	conf := fmt.Sprintf(`[server]
listen_addr = %q
grpc_addr = %q
socket = "../run/metacrypt.sock"
tls_cert = %q
tls_key = %q
local_admins = ["%d"]
[mcias]
server_url = %q
grpc_addr = %q
ca_cert = %q
key_file = %q
[backup]
every = "0s"
[seal]
credential_file = "unseal.key"
[pki]
public_url = "http://metacrypt.mc.localhost/pki"
`, p.http, p.grpc, pair.CertFile, pair.KeyFile, os.Geteuid(), p.idp.Issuer, p.idp.Addr, p.ca.RootFile, p.idp.ServiceKey(t, "metacrypt"))
	if err := secret.WriteFile(filepath.Join(dir, "metacrypt.toml"), []byte(conf)); err != nil {
		t.Fatal(err)
	}
	return p
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test's port
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (p *process) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...) //nolint:gosec,noctx // this very binary; the test ends it
	cmd.Env = append(os.Environ(), "MC_TEST_MAIN=metacrypt")
	return cmd
}

// output collects what a process writes while the test reads it.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (p *process) start(t *testing.T) {
	t.Helper()
	p.log = &output{}
	p.cmd = p.command("server", "--config", filepath.Join(p.root, "metacrypt", "metacrypt.toml"))
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill() })
	exited := make(chan struct{})
	p.gone = exited
	cmd := p.cmd
	go func() { _ = cmd.Wait(); close(exited) }() // Kill makes it return
	mctest.Eventually(t, "metacrypt listens", func() bool {
		select {
		case <-exited:
			t.Fatalf("metacrypt ended: %s", p.log)
		default:
		}
		c, err := net.Dial("tcp", p.grpc) //nolint:noctx // a probe
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// kill ends the process by SIGKILL and waits until its ports are free.
func (p *process) kill() {
	if p.gone != nil {
		_ = p.cmd.Process.Kill() // it may be gone
		<-p.gone
	}
}

// cli runs a command over the local socket and returns its output and exit code.
func (p *process) cli(t *testing.T, stdin string, args ...string) (string, string, int) {
	t.Helper()
	cmd := p.command(append([]string{"--root", p.root, "--addr", "local"}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed.
func (p *process) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, errOut, code := p.cli(t, stdin, args...)
	if code != 0 {
		t.Fatalf("metacrypt %v: exit %d\n%s%s", args, code, out, errOut)
	}
	return out
}

const unsealPassword = "a sentence of mine"

// up brings it up: initialized, unsealed, with an adopted root.
func (p *process) up(t *testing.T) {
	t.Helper()
	p.start(t)
	p.must(t, unsealPassword, "init", "--password-file", "-", "--recovery-out", filepath.Join(p.root, "recovery.txt"),
		"--credential-out", filepath.Join(p.root, "metacrypt", "unseal.key"))
	p.must(t, unsealPassword, "unseal", "--password-file", "-")
	p.must(t, "", "pki", "bootstrap", "--out", filepath.Join(p.root, "ca"), "--domain", "mc.localhost", "--service", "mcias,mcns")
	p.must(t, unsealPassword, "pki", "adopt", filepath.Join(p.root, "ca"), "--password-file", "-")
}

// dial connects over TLS, with a token or without.
func (p *process) dial(t *testing.T, token string) *grpc.ClientConn {
	t.Helper()
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: p.ca.Pool(), ServerName: host, MinVersion: tls.VersionTLS13}))}
	if token != "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return connect(t, p.grpc, opts...)
}

// socket connects over the Unix socket.
func (p *process) socket(t *testing.T) *grpc.ClientConn {
	t.Helper()
	return connect(t, "unix:"+filepath.Join(p.root, "run", "metacrypt.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func connect(t *testing.T, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}
func (bearer) RequireTransportSecurity() bool { return true }

// client is an HTTP client that knows the root and the host.
func (p *process) client() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: p.ca.Pool(), MinVersion: tls.VersionTLS13},
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", p.http)
		},
	}}
}

func (p *process) url(path string) string {
	_, port, _ := net.SplitHostPort(p.http)
	return "https://" + net.JoinHostPort(host, port) + path
}

func (p *process) state(t *testing.T) metacryptv1.SealState {
	t.Helper()
	res, err := metacryptv1.NewSystemClient(p.dial(t, "")).Status(t.Context(), &metacryptv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return res.GetState()
}
