package platform

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/web/webtest"
)

// site is where a platform under test lives: a domain and ports of its own, so that several run beside a developer's.
type site struct {
	engine, domain     string
	httpsPort, dnsPort int
}

var (
	procSite   = site{engine: "proc", domain: "e2e.localhost", httpsPort: 18443, dnsPort: 18053}
	dockerSite = site{engine: "docker", domain: "e2e-docker.localhost", httpsPort: 19443, dnsPort: 19053}
)

type world struct {
	site
	t    *testing.T
	bin  string
	root string
}

func newWorld(t *testing.T, at site) *world {
	t.Helper()
	bin := os.Getenv("MC_BIN")
	if bin == "" {
		bin, _ = filepath.Abs("../../bin")
	}
	if _, err := os.Stat(filepath.Join(bin, "mcp")); err != nil {
		t.Skipf("the binaries are not built (make build): %v", err)
	}
	if os.Geteuid() != 0 {
		t.Skip("runs as root: services get users of their own")
	}
	root, err := os.MkdirTemp("", "mce2e")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{site: at, t: t, bin: bin, root: root}
	t.Cleanup(func() {
		if t.Failed() {
			if log, err := os.ReadFile(filepath.Join(root, "mcp-agent", "agent.log")); err == nil {
				t.Logf("the agent's last words:\n%s", log[max(0, len(log)-3000):])
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, _, _ = w.try(ctx, nil, "mcp", "destroy", "--yes-delete-data="+w.domain)
		os.RemoveAll(root)
	})
	return w
}

// try runs one of the binaries and returns what it printed and its exit code.
func (w *world) try(ctx context.Context, stdin io.Reader, bin string, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, bin), append(args, "--root", w.root)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err := cmd.Run()
	code = cmd.ProcessState.ExitCode()
	if err != nil && code == 0 {
		code = -1
	}
	return out.String(), errs.String(), code
}

func (w *world) run(stdin io.Reader, bin string, args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	out, errs, code := w.try(ctx, stdin, bin, args...)
	if code != 0 {
		w.t.Fatalf("%s %v: exit code %d\n%s%s", bin, args, code, out, errs)
	}
	return out
}

type stageLine struct{ Stage, State, Detail string }

func (w *world) up() []stageLine {
	w.t.Helper()
	out := w.run(nil, "mcp", "up", "--yes", "--json", "--engine", w.engine, "--domain", w.domain, "--https-port", fmt.Sprint(w.httpsPort), "--dns-port", fmt.Sprint(w.dnsPort))
	var lines []stageLine
	for _, l := range strings.Split(strings.TrimSpace(out), "\n") {
		var s stageLine
		if err := json.Unmarshal([]byte(l), &s); err != nil {
			w.t.Fatalf("up --json printed %q: %v", l, err)
		}
		lines = append(lines, s)
	}
	return lines
}

type status struct {
	Domain   string
	Healthy  bool
	CAFile   string `json:"ca_file"`
	Services []struct{ Name, State, Digest, URL string }
}

func (w *world) status() status {
	w.t.Helper()
	var s status
	if err := json.Unmarshal([]byte(w.run(nil, "mcp", "status", "--json")), &s); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// client trusts the platform's root and nothing else, and finds every name at the proxy.
func (w *world) client() *http.Client {
	w.t.Helper()
	pem, err := os.ReadFile(filepath.Join(w.root, "ca.pem"))
	if err != nil {
		w.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", w.httpsPort))
		},
	}}
}

func (w *world) url(service string) string {
	return fmt.Sprintf("https://%s.%s:%d", service, w.domain, w.httpsPort)
}

func (w *world) get(service string) (string, error) {
	resp, err := w.client().Get(w.url(service) + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return strings.TrimSpace(string(body)), err
}

func (w *world) resolves(service string) bool {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprintf("127.0.0.1:%d", w.dnsPort))
	}}
	addrs, err := r.LookupHost(w.t.Context(), service+"."+w.domain+".")
	return err == nil && len(addrs) > 0
}

// TestPlatform is the life of a platform on the proc engine: up, login in a browser, an app, down, every process killed,
// up again, destroyed.
func TestPlatform(t *testing.T) { life(t, newWorld(t, procSite)) }

// TestPlatformOnDocker is the same where a Docker Engine answers.
func TestPlatformOnDocker(t *testing.T) {
	conn, err := net.Dial("unix", "/var/run/docker.sock")
	if err != nil {
		t.Skipf("no Docker Engine answers: %v", err)
	}
	conn.Close()
	w := newWorld(t, dockerSite)
	life(t, w)
}

func life(t *testing.T, w *world) {
	w.up()
	first := w.status()
	if !first.Healthy || len(first.Services) != 7 || first.Domain != w.domain {
		t.Fatalf("status after up: %+v", first)
	}
	root, err := os.ReadFile(first.CAFile)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("again changes nothing", func(t *testing.T) {
		for _, s := range w.up() {
			if s.State != "unchanged" {
				t.Errorf("stage %q is %s (%s), want unchanged", s.Stage, s.State, s.Detail)
			}
		}
	})
	t.Run("private files", func(t *testing.T) {
		for _, f := range []string{"credentials.json", "recovery-sheet.txt", "login.json"} {
			if fi, err := os.Stat(filepath.Join(w.root, f)); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v, want mode 0600", f, fi, err)
			}
		}
	})
	t.Run("no secret in arguments or environments", w.canary)
	t.Run("a wrong password is refused", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, errs, code := w.try(ctx, strings.NewReader("wrong\n"), "mcp", "login", "--user", "admin", "--password-file", "-")
		if code != 4 {
			t.Errorf("exit code %d, want 4: %s", code, errs)
		}
	})
	t.Run("browser", w.browser)
	t.Run("app", w.app)
	t.Run("down and up", func(t *testing.T) {
		w.run(nil, "mcp", "down")
		if _, err := w.get("mcat"); err == nil {
			t.Error("MCAT answers after down")
		}
		w.up()
		w.same(t, root)
	})
	t.Run("every process killed", func(t *testing.T) {
		w.killAll()
		w.up()
		w.same(t, root)
	})
	t.Run("destroy", func(t *testing.T) {
		w.run(nil, "mcp", "destroy", "--yes-delete-data="+w.domain)
		if _, err := os.Stat(w.root); !os.IsNotExist(err) {
			t.Errorf("the root is still there: %v", err)
		}
		if ours := w.processes(); len(ours) > 0 {
			t.Errorf("processes are left: %v", ours)
		}
	})
}

func (w *world) same(t *testing.T, root []byte) {
	t.Helper()
	s := w.status()
	if !s.Healthy {
		t.Errorf("not healthy: %+v", s)
	}
	if now, err := os.ReadFile(s.CAFile); err != nil || !bytes.Equal(now, root) {
		t.Errorf("the root certificate changed (%v)", err)
	}
}

// canary looks for the platform's passwords where everybody may look.
func (w *world) canary(t *testing.T) {
	var creds struct {
		Admin          struct{ Password string }
		UnsealPassword string `json:"unseal_password"`
	}
	data, err := os.ReadFile(filepath.Join(w.root, "credentials.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &creds); err != nil || len(creds.Admin.Password) < 20 || len(creds.UnsealPassword) < 20 {
		t.Fatalf("credentials: %v", err)
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ", filepath.Join(w.root, "mcp-agent", "*.log"), filepath.Join(w.root, "mcp-agent", "proc", "containers", "*", "log")} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			for what, secret := range map[string]string{"administrator's": creds.Admin.Password, "unseal": creds.UnsealPassword} {
				if bytes.Contains(text, []byte(secret)) {
					t.Errorf("the %s password stands in %s", what, f)
				}
			}
		}
	}
}

func (w *world) browser(t *testing.T) {
	var creds struct {
		Admin struct{ Username, Password string }
	}
	data, err := os.ReadFile(filepath.Join(w.root, "credentials.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &creds); err != nil {
		t.Fatal(err)
	}
	b := webtest.NewBrowser(t, &mctest.CA{RootFile: filepath.Join(w.root, "ca.pem")})
	b.Open(w.url("mcat") + "/login")
	b.Until("Sign in")
	b.Do(chromedp.WaitVisible("#f-username"), chromedp.SendKeys("#f-username", creds.Admin.Username), chromedp.SendKeys("#f-password", creds.Admin.Password),
		chromedp.Submit("#f-password"))
	b.Until("admins-core")
	if text := b.Text(); !strings.Contains(text, creds.Admin.Username) {
		t.Errorf("MCAT shows\n%s\nwant the signed-in name", text)
	}
}

// image builds the test app as an image archive.
func (w *world) image(t *testing.T, tag string) *bytes.Buffer {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "app")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "./testdata/app")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the app: %v\n%s", err, out)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		var b bytes.Buffer
		if err := tarFile(&b, bin); err != nil {
			return nil, err
		}
		return io.NopCloser(&b), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/app"}}); err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(ref, img, &archive); err != nil {
		t.Fatal(err)
	}
	return &archive
}

func (w *world) app(t *testing.T) {
	w.run(w.image(t, "wiki:1.0"), "mcr", "push", "-", "wiki:1.0")
	definition := func(greeting string) io.Reader {
		return strings.NewReader("name = \"wiki\"\nimage = \"wiki:1.0\"\nport = 8080\nhealth = \"/healthz\"\nenv = { GREETING = \"" + greeting + "\" }\n")
	}
	w.run(definition("one"), "mcp", "deploy", "-")
	if body, err := w.get("wiki"); err != nil || body != "hello one" {
		t.Fatalf("the app answers %q, %v", body, err)
	}
	if !w.resolves("wiki") {
		t.Error("the app's name does not resolve")
	}
	// A redeployment under a poller without keep-alive loses no request.
	ctx, cancel := context.WithCancel(t.Context())
	type result struct{ ok, failed int }
	done := make(chan result)
	go func() {
		var r result
		for ctx.Err() == nil {
			body, err := w.get("wiki")
			if err == nil && (body == "hello one" || body == "hello two") {
				r.ok++
			} else {
				r.failed++
			}
		}
		done <- r
	}()
	w.run(definition("two"), "mcp", "deploy", "--wait", "-")
	cancel()
	if r := <-done; r.failed > 0 || r.ok == 0 {
		t.Errorf("%d requests answered, %d failed during a redeployment", r.ok, r.failed)
	}
	if body, err := w.get("wiki"); err != nil || body != "hello two" {
		t.Errorf("after the redeployment the app answers %q, %v", body, err)
	}
	w.killedAgent(t, definition)
	w.run(definition("two"), "mcp", "deploy", "--wait", "-")
	sick := strings.NewReader("name = \"wiki\"\nimage = \"wiki:1.0\"\nport = 8080\nhealth = { http = \"/nothing/\", start = \"2s\" }\ncmd = [\"/app-that-is-not-there\"]\n")
	sctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if out, errs, code := w.try(sctx, sick, "mcp", "deploy", "-"); code == 0 {
		t.Errorf("a version that cannot start was deployed: %s%s", out, errs)
	}
	if body, err := w.get("wiki"); err != nil || body != "hello two" {
		t.Errorf("after a failed deployment the app answers %q, %v", body, err)
	}
	w.run(definition("three"), "mcp", "deploy", "-")
	w.run(nil, "mcp", "rollback", "wiki")
	if body, err := w.get("wiki"); err != nil || body != "hello two" {
		t.Errorf("after the rollback the app answers %q, %v", body, err)
	}
	w.run(nil, "mcp", "undeploy", "--yes", "wiki")
	if body, err := w.get("wiki"); err == nil {
		t.Errorf("the app answers %q after undeploy", body)
	}
	if w.resolves("wiki") {
		t.Error("the app's name resolves after undeploy")
	}
	left, _ := filepath.Glob(filepath.Join(w.root, "mc-proxy", "certs", "wiki*"))
	if len(left) > 0 {
		t.Errorf("certificates are left: %v", left)
	}
}

// killedAgent kills the agent after a step of a deployment, at several steps: the app answers all the while, and the
// operation ends in exactly the old or exactly the new version.
func (w *world) killedAgent(t *testing.T, definition func(string) io.Reader) {
	for i, step := range []string{"pull", "certs", "start", "switch", "commit"} {
		greeting := "kill" + fmt.Sprint(i)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "mcp"), "deploy", "--wait", "--root", w.root, "-")
		cmd.Stdin = definition(greeting)
		progress, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(progress)
		for lines.Scan() {
			if strings.HasPrefix(strings.TrimSpace(lines.Text()), step+" ") {
				w.killAgent()
			}
		}
		_ = cmd.Wait()
		cancel()
		mctest.Eventually(t, "the operation is decided after a kill at "+step, func() bool {
			out, _, code := w.try(t.Context(), nil, "mcp", "show", "--local", "--json", "wiki")
			var sv struct {
				State string
				OpID  string `json:"op_id"`
			}
			return code == 0 && json.Unmarshal([]byte(out), &sv) == nil && sv.State == "STATE_HEALTHY" && sv.OpID == ""
		})
		body, err := w.get("wiki")
		if err != nil || !strings.HasPrefix(body, "hello ") {
			t.Errorf("after a kill at %s the app answers %q, %v", step, body, err)
		}
	}
}

// killAgent kills the agent itself; its parent starts it again.
func (w *world) killAgent() {
	for _, pid := range w.processes() {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && bytes.Contains(args, []byte("agent\x00server")) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// processes are those that belong to this platform: its agent, its shims, and their children.
func (w *world) processes() []int {
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		args, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || !bytes.Contains(args, []byte(w.root)) || !bytes.Contains(args, []byte("mcp")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(d), "%d", &pid); err == nil && pid != os.Getpid() {
			out = append(out, pid)
		}
	}
	return out
}

// killAll kills the supervisor, the agent and every shim; containers die with their shims.
func (w *world) killAll() {
	for range 3 {
		for _, pid := range w.processes() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
