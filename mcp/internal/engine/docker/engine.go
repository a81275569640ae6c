package docker

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/engine"
)

// Config says which engine to use.
type Config struct {
	Socket   string // path of the engine's Unix socket
	Platform string // names images
}

// Engine is the engine behind a socket. Safe for concurrent use.
type Engine struct {
	cfg Config
	api *client.Client

	mu sync.Mutex // one network is made at a time: the API allows two of one name
}

var _ engine.Engine = (*Engine)(nil)

// platformPattern is what may stand in an image's repository.
var platformPattern = regexp.MustCompile(`^[A-Za-z0-9]+([-_.][A-Za-z0-9]+)*$`)

// New returns an engine; it is asked for the first time when it is used.
func New(cfg Config) (*Engine, error) {
	if !platformPattern.MatchString(cfg.Platform) {
		return nil, fault.New(fault.Invalid, "%q cannot name the platform's images: letters and digits are needed", cfg.Platform)
	}
	api, err := client.New(client.WithHost("unix://"+cfg.Socket), client.WithUserAgent("mcp"))
	if err != nil {
		return nil, fmt.Errorf("open engine %s: %w", cfg.Socket, err)
	}
	return &Engine{cfg: cfg, api: api}, nil
}

// Close gives back the connections.
func (e *Engine) Close() error { return e.api.Close() }

// away makes a fault of an engine's error: connection failures are Unavailable, so that nobody takes an engine that does
// not answer for one that has lost its containers.
func away(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	switch {
	case client.IsErrConnectionFailed(err):
		return fault.New(fault.Unavailable, "%s: the container engine does not answer", what).Wrap(err).WithReason("ENGINE_DOWN")
	case cerrdefs.IsNotFound(err):
		return fault.New(fault.NotFound, "%s: it is not in the engine", what).Wrap(err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Info asks the engine what it is and what it cannot enforce.
func (e *Engine) Info(ctx context.Context) (engine.Info, error) {
	v, err := e.api.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return engine.Info{}, away(err, "ask for the engine's version")
	}
	info := engine.Info{Kind: "docker", Version: v.Version}
	for _, c := range v.Components {
		if strings.Contains(strings.ToLower(c.Name), "podman") {
			info.Kind = "podman"
		}
	}
	sys, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return engine.Info{}, away(err, "ask the engine what it can do")
	}
	for _, w := range []struct {
		ok   bool
		what string
	}{{sys.Info.MemoryLimit, "memory"}, {sys.Info.CPUCfsQuota, "cpu"}, {sys.Info.PidsLimit, "pids"}} {
		if !w.ok {
			info.Weaker = append(info.Weaker, w.what+" limits are not enforced: the engine has no control group for them")
		}
	}
	return info, nil
}

// Create makes a container.
func (e *Engine) Create(ctx context.Context, s engine.Spec) (string, error) {
	for _, m := range s.Mounts {
		if _, err := os.Stat(m.Source); err != nil {
			return "", fault.New(fault.Precondition, "mount %s: its source is not there", m.Target).Wrap(err)
		}
	}
	tag, err := e.tag(s.Digest)
	if err != nil {
		return "", err
	}
	conf := &container.Config{
		Image: tag, Hostname: s.Hostname, Env: s.Env, Labels: s.Labels,
		User: strconv.FormatUint(uint64(s.UID), 10) + ":" + strconv.FormatUint(uint64(s.GID), 10),
	}
	if len(s.Command) > 0 {
		conf.Entrypoint, conf.Cmd = s.Command[:1], s.Command[1:]
	}
	host := hostConfig(s)
	if conf.ExposedPorts, host.PortBindings, err = ports(s.Ports); err != nil {
		return "", err
	}
	opts := client.ContainerCreateOptions{Config: conf, HostConfig: host, Name: s.Name}
	if s.Network != "" {
		opts.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
			s.Network: {Aliases: s.Aliases}}}
	}
	res, err := e.api.ContainerCreate(ctx, opts)
	if err != nil && cerrdefs.IsConflict(err) && s.Name != "" {
		// Names are for people; another container of this one's name is no reason to fail.
		opts.Name = ""
		res, err = e.api.ContainerCreate(ctx, opts)
	}
	if err != nil {
		return "", away(err, "make container %s", s.Name)
	}
	return res.ID, nil
}

func hostConfig(s engine.Spec) *container.HostConfig {
	h := &container.HostConfig{
		NetworkMode:    "none",
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		ReadonlyRootfs: true,
		CapDrop:        []string{"ALL"},
		SecurityOpt:    []string{"no-new-privileges"},
		IpcMode:        container.IPCModePrivate,
		Tmpfs:          map[string]string{"/tmp": "rw,nosuid,nodev,noexec,size=64m,mode=1777"},
		LogConfig:      container.LogConfig{Type: "local", Config: map[string]string{"max-size": "10m", "max-file": "3"}},
	}
	if s.Network != "" {
		h.NetworkMode = container.NetworkMode(s.Network)
	}
	for _, m := range s.Mounts {
		// The mounts API refuses a missing source; Binds would make an empty folder of root's.
		h.Mounts = append(h.Mounts, mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly,
			BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}})
	}
	for name, addr := range s.Hosts {
		h.ExtraHosts = append(h.ExtraHosts, name+":"+addr)
	}
	h.Memory, h.MemorySwap = s.Limits.Memory, s.Limits.Memory
	h.NanoCPUs = int64(s.Limits.CPU * 1e9)
	if s.Limits.PIDs > 0 {
		h.PidsLimit = &s.Limits.PIDs
	}
	return h
}

func ports(in []engine.Port) (network.PortSet, network.PortMap, error) {
	set, bind := network.PortSet{}, network.PortMap{}
	for _, p := range in {
		port, ok := network.PortFrom(p.Container, network.TCP)
		if !ok || !p.Addr.IsValid() {
			return nil, nil, fault.New(fault.Invalid, "port %d cannot be published at %q", p.Container, p.Addr)
		}
		set[port] = struct{}{}
		bind[port] = append(bind[port], network.PortBinding{HostIP: p.Addr, HostPort: strconv.Itoa(int(p.Host))})
	}
	return set, bind, nil
}

// Start runs a container and proves that its ports were published: an engine may start one without them and not say so
// (moby issues 36591 and 51758).
func (e *Engine) Start(ctx context.Context, id string) error {
	if _, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return away(err, "start container %.12s", id)
	}
	res, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return away(err, "look at container %.12s", id)
	}
	c := res.Container
	if c.State == nil || !c.State.Running || c.HostConfig == nil || c.NetworkSettings == nil {
		return nil // ended already: whoever waits for it learns why
	}
	for port, wanted := range c.HostConfig.PortBindings {
		for _, w := range wanted {
			if published(c.NetworkSettings.Ports[port], w) {
				continue
			}
			if err := e.Stop(ctx, id, "SIGKILL", time.Second); err != nil {
				return err
			}
			return fault.New(fault.Precondition, "the engine started the container without publishing port %s at %s:%s", port, w.HostIP, w.HostPort).
				WithReason("PORT_NOT_PUBLISHED").WithNext("mcp doctor")
		}
	}
	return nil
}

func published(have []network.PortBinding, want network.PortBinding) bool {
	for _, h := range have {
		if h.HostPort == want.HostPort && h.HostIP == want.HostIP {
			return true
		}
	}
	return false
}

// Stop asks, waits, kills.
func (e *Engine) Stop(ctx context.Context, id, signal string, grace time.Duration) error {
	c, ok, err := e.Inspect(ctx, id)
	if err != nil || !ok || c.State != engine.Running {
		return err
	}
	if _, err := e.api.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: signal}); err != nil && !gone(err) {
		return away(err, "signal container %.12s", id)
	}
	// The API's own stop counts whole seconds only.
	wctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if _, err := e.Wait(wctx, id); err == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := e.api.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "SIGKILL"}); err != nil && !gone(err) {
		return away(err, "kill container %.12s", id)
	}
	_, err = e.Wait(ctx, id)
	return err
}

// gone reports whether a container that was to be signalled had ended by itself.
func gone(err error) bool { return cerrdefs.IsConflict(err) || cerrdefs.IsNotFound(err) }

// Remove deletes a container.
func (e *Engine) Remove(ctx context.Context, id string) error {
	_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) {
		return away(err, "remove container %.12s", id)
	}
	return nil
}

// List returns the containers with these labels.
func (e *Engine) List(ctx context.Context, labels map[string]string) ([]engine.Container, error) {
	f := client.Filters{}
	for k, v := range labels {
		f = f.Add("label", k+"="+v)
	}
	res, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f})
	if err != nil {
		return nil, away(err, "list containers")
	}
	var out []engine.Container
	for _, s := range res.Items {
		if _, _, ours := e.digestOf(s.Image); !ours && len(labels) == 0 {
			continue // somebody else's: only those with our labels or our images concern us
		}
		c, ok, err := e.Inspect(ctx, s.ID)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// Inspect returns one container.
func (e *Engine) Inspect(ctx context.Context, id string) (engine.Container, bool, error) {
	res, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if cerrdefs.IsNotFound(err) {
		return engine.Container{}, false, nil
	}
	if err != nil {
		return engine.Container{}, false, away(err, "look at container %.12s", id)
	}
	r := res.Container
	c := engine.Container{ID: r.ID, Name: strings.TrimPrefix(r.Name, "/"), State: engine.Created}
	if r.Config != nil {
		c.Labels = r.Config.Labels
		c.Digest, _, _ = e.digestOf(r.Config.Image)
	}
	if r.State == nil {
		return c, true, nil
	}
	c.PID, c.ExitCode, c.OOM, c.Error = r.State.Pid, r.State.ExitCode, r.State.OOMKilled, r.State.Error
	c.Started, c.Finished = parseTime(r.State.StartedAt), parseTime(r.State.FinishedAt)
	switch {
	case r.State.Running || r.State.Paused || r.State.Restarting:
		c.State = engine.Running
	case r.State.Status != "created":
		c.State = engine.Exited
	}
	return c, true, nil
}

// parseTime reads the API's times; its zero time is ours.
func parseTime(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() <= 1 {
		return time.Time{}
	}
	return t
}

// Wait returns when a container does not run any more.
func (e *Engine) Wait(ctx context.Context, id string) (engine.Container, error) {
	w := e.api.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	select {
	case <-ctx.Done():
		return engine.Container{}, ctx.Err()
	case err := <-w.Error:
		if ctx.Err() != nil {
			return engine.Container{}, ctx.Err()
		}
		return engine.Container{}, away(err, "wait for container %.12s", id)
	case <-w.Result:
	}
	c, ok, err := e.Inspect(ctx, id)
	if err == nil && !ok {
		err = fault.New(fault.NotFound, "no container %.12s", id)
	}
	return c, err
}

// EnsureNetwork makes the bridge network of a service; its bridge has a name of ours, by which the packet filter knows it.
func (e *Engine) EnsureNetwork(ctx context.Context, name string, labels map[string]string) (netip.Addr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	id, err := e.network(ctx, name)
	if err != nil {
		return netip.Addr{}, err
	}
	if id == "" {
		res, err := e.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", Labels: labels,
			Options: map[string]string{"com.docker.network.bridge.name": bridgeName(name)}})
		if err != nil {
			return netip.Addr{}, away(err, "make network %s", name)
		}
		id = res.ID
	}
	res, err := e.api.NetworkInspect(ctx, id, client.NetworkInspectOptions{})
	if err != nil {
		return netip.Addr{}, away(err, "look at network %s", name)
	}
	for _, c := range res.Network.IPAM.Config {
		if c.Gateway.IsValid() {
			return c.Gateway, nil
		}
	}
	return netip.Addr{}, fault.New(fault.Precondition, "network %s has no gateway", name).WithNext("mcp doctor")
}

// network returns the id of the network of this name, or "".
func (e *Engine) network(ctx context.Context, name string) (string, error) {
	res, err := e.api.NetworkList(ctx, client.NetworkListOptions{Filters: client.Filters{}.Add("name", name)})
	if err != nil {
		return "", away(err, "list networks")
	}
	for _, n := range res.Items {
		if n.Name == name { // the filter matches parts of names, too
			return n.ID, nil
		}
	}
	return "", nil
}

// RemoveNetwork removes a network.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	id, err := e.network(ctx, name)
	if err != nil || id == "" {
		return err
	}
	if _, err := e.api.NetworkRemove(ctx, id, client.NetworkRemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
		return away(err, "remove network %s", name)
	}
	return nil
}
