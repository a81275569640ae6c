package proc

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/engine"
)

// Config says where the engine keeps things.
type Config struct {
	Dir      string // images/ and containers/ below it
	Self     string // this binary, which is shim and init too
	Platform string // names the control groups
}

// Engine is the proc engine. Safe for concurrent use; one process at a time owns a folder.
type Engine struct {
	cfg Config

	mu       sync.Mutex // guards what is below
	watching map[string]bool
	subs     map[chan engine.Event]bool
}

// New opens the engine on its folder and goes on watching what runs there.
func New(cfg Config) (*Engine, error) {
	for _, d := range []string{"images", "containers"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("open proc engine: %w", err)
		}
	}
	e := &Engine{cfg: cfg, watching: map[string]bool{}, subs: map[chan engine.Event]bool{}}
	return e, nil
}

// Info says what holds here.
func (e *Engine) Info(context.Context) (engine.Info, error) {
	info := engine.Info{Kind: "proc", Version: "1", HostNetwork: true}
	if os.Geteuid() != 0 {
		info.Weaker = append(info.Weaker, "all containers run as the user who started the platform")
	}
	for _, c := range controllers {
		if !c.writable(e.cfg.Platform) {
			info.Weaker = append(info.Weaker, c.name+" limits are not enforced: its control group cannot be written")
		}
	}
	return info, nil
}

// EnsureNetwork returns loopback: containers share the host's network.
func (e *Engine) EnsureNetwork(context.Context, string, map[string]string) (netip.Addr, error) {
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

// RemoveNetwork has nothing to remove.
func (e *Engine) RemoveNetwork(context.Context, string) error { return nil }

var idPattern = regexp.MustCompile(`^[a-z0-9]{16}$`)

func (e *Engine) dir(id string) (string, error) {
	if !idPattern.MatchString(id) {
		return "", fault.New(fault.NotFound, "no container %q", id)
	}
	return filepath.Join(e.cfg.Dir, "containers", id), nil
}

// Create writes the container's folder. A crash leaves either no folder of that name or a whole one.
func (e *Engine) Create(ctx context.Context, s engine.Spec) (string, error) {
	if ok, err := e.HasImage(ctx, s.Digest); err != nil || !ok {
		return "", fault.New(fault.NotFound, "image %s is not unpacked here", s.Digest).Wrap(err)
	}
	for _, m := range s.Mounts {
		if _, err := os.Stat(m.Source); err != nil {
			return "", fault.New(fault.Precondition, "mount %s: its source is not there", m.Target).Wrap(err)
		}
	}
	id := strings.ToLower(rand.Text()[:16])
	final, err := e.dir(id)
	if err != nil {
		return "", err
	}
	tmp := filepath.Join(e.cfg.Dir, "containers", ".new-"+id)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return "", fmt.Errorf("make container: %w", err)
	}
	defer os.RemoveAll(tmp)
	root, err := e.rootfs(s.Digest)
	if err != nil {
		return "", err
	}
	if err := makeMountPoints(root, s); err != nil {
		return "", err
	}
	sp := shimSpec{Spec: s, ID: id, Root: root, Self: e.cfg.Self, Platform: e.cfg.Platform}
	for name, data := range map[string][]byte{"hosts": hostsFile(s), "resolv.conf": resolvFile(), "spec.json": mustJSON(sp)} {
		if err := writeSync(filepath.Join(tmp, name), data, 0o644); err != nil {
			return "", err
		}
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("make container: %w", err)
	}
	return id, nil
}

func hostsFile(s engine.Spec) []byte {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	names := make([]string, 0, len(s.Hosts))
	for n := range s.Hosts {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(&b, "%s %s\n", s.Hosts[n], n)
	}
	return []byte(b.String())
}

func resolvFile() []byte {
	data, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	return data
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of ours
	}
	return data
}

func writeSync(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask: a container's user reads some of them
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// Start launches the shim and waits until it says that the program runs, or why it does not.
func (e *Engine) Start(ctx context.Context, id string) error {
	dir, err := e.dir(id)
	if err != nil {
		return err
	}
	c, ok, err := e.Inspect(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		return fault.New(fault.NotFound, "no container %s", id)
	}
	if c.State != engine.Created {
		return fault.New(fault.Precondition, "container %s was started before", id)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(e.cfg.Self, "proc-shim", dir)
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=50"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	// The shim is ours to reap only while we live; afterwards it is init's.
	go func() { _ = cmd.Wait() }()
	said := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(io.LimitReader(r, 4096))
		said <- string(data)
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case text := <-said:
		if text != "ok" {
			return fault.New(fault.Precondition, "container did not start: %s", strings.TrimSpace(text))
		}
	}
	e.emit(engine.Event{ID: id, Kind: "start", Labels: c.Labels})
	e.watch(id, c.Labels)
	return nil
}

// Inspect reads a container's folder.
func (e *Engine) Inspect(_ context.Context, id string) (engine.Container, bool, error) {
	dir, err := e.dir(id)
	if err != nil {
		return engine.Container{}, false, nil //nolint:nilerr // an id of another form is an id we don't have
	}
	return read(dir, id)
}

func read(dir, id string) (engine.Container, bool, error) {
	var s shimSpec
	if err := readJSON(filepath.Join(dir, "spec.json"), &s); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return engine.Container{}, false, nil
		}
		return engine.Container{}, false, fmt.Errorf("read container %s: %w", id, err)
	}
	c := engine.Container{ID: id, Name: s.Spec.Name, Digest: s.Spec.Digest, Labels: s.Spec.Labels, State: engine.Created}
	var st shimState
	if err := readJSON(filepath.Join(dir, "state.json"), &st); err == nil {
		c.State, c.PID, c.Started = engine.Running, st.PID, st.Started
	}
	var ex exitState
	if err := readJSON(filepath.Join(dir, "exit.json"), &ex); err == nil {
		c.State, c.ExitCode, c.Finished, c.OOM, c.Error, c.PID = engine.Exited, ex.Code, ex.At, ex.OOM, ex.Error, 0
	} else if c.State == engine.Running && !(alive(st.Shim) || alive(st.Child())) {
		// Killed together with its shim: there is nobody left who could have written the exit status.
		c.State, c.ExitCode, c.PID, c.Error = engine.Exited, -1, 0, "the shim was killed"
	}
	return c, true, nil
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// List reads all folders.
func (e *Engine) List(_ context.Context, labels map[string]string) ([]engine.Container, error) {
	entries, err := os.ReadDir(filepath.Join(e.cfg.Dir, "containers"))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []engine.Container
next:
	for _, ent := range entries {
		if !idPattern.MatchString(ent.Name()) {
			continue
		}
		c, ok, err := read(filepath.Join(e.cfg.Dir, "containers", ent.Name()), ent.Name())
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		for k, v := range labels {
			if c.Labels[k] != v {
				continue next
			}
		}
		out = append(out, c)
	}
	return out, nil
}

// Stop signals the program, waits, then kills it.
func (e *Engine) Stop(ctx context.Context, id, signal string, grace time.Duration) error {
	dir, err := e.dir(id)
	if err != nil {
		return err
	}
	var st shimState
	if err := readJSON(filepath.Join(dir, "state.json"), &st); err != nil {
		return nil //nolint:nilerr // never started
	}
	if !alive(st.Child()) {
		return nil
	}
	sig, err := signalOf(signal)
	if err != nil {
		return err
	}
	if err := kill(st.Child(), sig); err != nil {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	wctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if _, err := e.Wait(wctx, id); err == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := kill(st.Child(), syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill container %s: %w", id, err)
	}
	_, err = e.Wait(ctx, id)
	return err
}

// Remove kills the program if need be and deletes the folder.
func (e *Engine) Remove(ctx context.Context, id string) error {
	dir, err := e.dir(id)
	if err != nil {
		return nil //nolint:nilerr // not ours, so not there
	}
	if err := e.Stop(ctx, id, "SIGKILL", 5*time.Second); err != nil {
		return err
	}
	removeCgroups(e.cfg.Platform, id)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// Wait returns when the shim is gone: it writes the exit status before it ends.
func (e *Engine) Wait(ctx context.Context, id string) (engine.Container, error) {
	dir, err := e.dir(id)
	if err != nil {
		return engine.Container{}, err
	}
	var st shimState
	if err := readJSON(filepath.Join(dir, "state.json"), &st); err == nil {
		if err := waitGone(ctx, st.Shim); err != nil {
			return engine.Container{}, err
		}
	}
	c, ok, err := read(dir, id)
	if err == nil && !ok {
		err = fault.New(fault.NotFound, "no container %s", id)
	}
	return c, err
}

// Events subscribes to starts and deaths. A subscriber that does not keep up loses events, which are hints only.
func (e *Engine) Events(ctx context.Context) (<-chan engine.Event, error) {
	ch := make(chan engine.Event, 256)
	e.mu.Lock()
	e.subs[ch] = true
	e.mu.Unlock()
	all, err := e.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.State == engine.Running {
			e.watch(c.ID, c.Labels)
		}
	}
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, ch)
		close(ch)
	})
	return ch, nil
}

func (e *Engine) emit(ev engine.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for ch := range e.subs {
		select {
		case ch <- ev:
		default:
		}
	}
}

// watch waits for the end of one container, once per process of ours.
func (e *Engine) watch(id string, labels map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watching[id] {
		return
	}
	e.watching[id] = true
	// It ends with the container; a container that outlives the agent is watched by the next one.
	go func() {
		_, err := e.Wait(context.Background(), id)
		e.mu.Lock()
		delete(e.watching, id)
		e.mu.Unlock()
		if err == nil {
			e.emit(engine.Event{ID: id, Kind: "die", Labels: labels})
		}
	}()
}

// HasImage reports whether an image is unpacked.
func (e *Engine) HasImage(_ context.Context, digest string) (bool, error) {
	root, err := e.rootfs(digest)
	if err != nil {
		return false, err
	}
	_, err = os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// LoadImage unpacks an image beside its place and renames it there.
func (e *Engine) LoadImage(ctx context.Context, digest string, img v1.Image) error {
	if ok, err := e.HasImage(ctx, digest); err != nil || ok {
		return err
	}
	root, err := e.rootfs(digest)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(filepath.Dir(root)), ".new-*")
	if err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	defer os.RemoveAll(tmp)
	target := filepath.Join(tmp, "rootfs")
	if err := unpack(ctx, img, target); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Dir(root)); err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("unpack image: %w", err)
	}
	return nil
}

// RemoveImage deletes an unpacked image.
func (e *Engine) RemoveImage(_ context.Context, digest string) error {
	root, err := e.rootfs(digest)
	if err != nil {
		return err
	}
	return os.RemoveAll(filepath.Dir(root))
}

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (e *Engine) rootfs(digest string) (string, error) {
	if !digestPattern.MatchString(digest) {
		return "", fault.New(fault.Invalid, "%q is not a sha256 digest", digest)
	}
	return filepath.Join(e.cfg.Dir, "images", digest[7:], "rootfs"), nil
}
