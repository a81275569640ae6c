package deploy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/oci"
	"metacircular.net/mcp/internal/spec"
	"metacircular.net/mcp/internal/store"
)

// Router moves traffic. MC-Proxy is one.
type Router interface {
	// Swap puts and removes a set of routes in one step under an idempotency key. Revisions read before guard it: a route
	// that moved meanwhile is a Conflict.
	Swap(ctx context.Context, key string, put []Target, remove []Target, releaseHold bool) error
	// Switched reports whether the swap of this key is in force for these routes.
	Switched(ctx context.Context, key string, routes []Target) (bool, error)
	// Hold makes requests wait instead of fail while there is no backend.
	Hold(ctx context.Context, key string, routes []Target, limit time.Duration) error
	// Release ends a hold.
	Release(ctx context.Context, key string, routes []Target) error
	// Drain returns when a backend that was switched away from serves nobody any more, or at the deadline.
	Drain(ctx context.Context, t Target, deadline time.Duration) error
}

// Target is a route with the backend it should lead to.
type Target struct {
	Listener string
	Host     string
	Mode     string // l4 or l7
	Backend  string // addr:port
	Core     bool   // it ends TLS itself and believes PROXY v2 headers with the hop key
	CertFile string // l7: base name inside MC-Proxy's certificate folder
}

// Names publishes the node's set of names.
type Names interface {
	Sync(ctx context.Context, hosts []string) error
}

// Issuer gets and returns certificates for route hosts.
type Issuer interface {
	// Ensure makes sure a certificate for the host lies in MC-Proxy's folder and returns its base name.
	Ensure(ctx context.Context, host string) (file string, err error)
	// Drop revokes and removes it.
	Drop(ctx context.Context, host string) error
}

// Config is what a Deployer stands on.
type Config struct {
	Store    *store.Store
	Images   *oci.Store
	Engines  map[string]engine.Engine
	Default  string // engine of services that name none
	Router   Router
	Names    Names
	Issuer   Issuer
	Registry func() (oci.Registry, bool) // false while there is none yet
	Root     string
	Platform string
	Node     string
	Domain   string
	HTTPS    int // MC-Proxy's port, for URLs
	Hosts    func() map[string]string
	Log      *slog.Logger
	Now      func() time.Time
}

// Deployer runs operations.
type Deployer struct {
	cfg   Config
	epoch int64
	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	work  sync.WaitGroup
	slots chan struct{} // operations that may run at once

	mu   sync.Mutex // guards hubs and backoff
	hubs map[string]*hub
	back map[string]*backoff
}

// parallel operations; the rest wait their turn.
const parallel = 4

// New begins a new epoch. Call Recover before anything else, Close at the end.
func New(ctx context.Context, cfg Config) (*Deployer, error) {
	epoch, err := cfg.Store.NextEpoch(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin an epoch: %w", err)
	}
	d := &Deployer{cfg: cfg, epoch: epoch, slots: make(chan struct{}, parallel), hubs: map[string]*hub{}, back: map[string]*backoff{}}
	// Operations outlive the calls that asked for them; they end with the Deployer.
	d.ctx, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	return d, nil
}

// Close lets go: running operations stop where they are and are decided at the next start.
func (d *Deployer) Close() {
	d.stop()
	d.work.Wait()
}

// engineOf is the engine a component runs on.
func (d *Deployer) engineOf(c *spec.Component) (engine.Engine, string) {
	kind := c.Engine
	if kind == "" {
		kind = d.cfg.Default
	}
	return d.cfg.Engines[kind], kind
}

func (d *Deployer) labels(service string) map[string]string {
	l := map[string]string{"mcp.platform": d.cfg.Platform, "mcp.node": d.cfg.Node}
	if service != "" {
		l["mcp.service"] = service
	}
	return l
}

// containers lists a service's containers on all engines; an empty name is all of this node's.
func (d *Deployer) containers(ctx context.Context, service string) ([]placed, error) {
	var out []placed
	for kind, e := range d.cfg.Engines {
		list, err := e.List(ctx, d.labels(service))
		if err != nil {
			return nil, fmt.Errorf("list containers of engine %s: %w", kind, err)
		}
		for _, c := range list {
			out = append(out, placed{Container: c, engine: e, kind: kind})
		}
	}
	return out, nil
}

// placed is a container with the engine it is on.
type placed struct {
	engine.Container
	engine engine.Engine
	kind   string
}

func (p placed) generation() int64 {
	n, _ := strconv.ParseInt(p.Labels["mcp.generation"], 10, 64)
	return n
}

func (p placed) component() string { return p.Labels["mcp.component"] }

// published is the port a slot of a name listens on.
func published(base, slot int) int { return base + slot }

func backendAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// ports allocates the pairs of a component.
func (d *Deployer) ports(ctx context.Context, service string, c *spec.Component) (map[string]int, error) {
	out := map[string]int{}
	for _, p := range c.Ports {
		n, err := d.cfg.Store.Port(ctx, d.cfg.Platform, service, c.Name, p.Name, portTaken)
		if err != nil {
			return nil, err
		}
		out[p.Name] = n
	}
	return out, nil
}

// Ports allocates pairs by name before a service is deployed: its configuration has to name them.
func (d *Deployer) Ports(ctx context.Context, service, component, name string) (int, error) {
	return d.cfg.Store.Port(ctx, d.cfg.Platform, service, component, name, portTaken)
}

// portTaken asks the kernel whether somebody listens there.
func portTaken(port int) bool {
	l, err := net.Listen("tcp", backendAddr(port))
	if err != nil {
		return true
	}
	l.Close()
	return false
}

// targets are the routes of a generation with their backends.
func (d *Deployer) targets(ctx context.Context, s *spec.Service, slot int) ([]Target, error) {
	var out []Target
	for i := range s.Components {
		c := &s.Components[i]
		if len(c.Routes) == 0 {
			continue
		}
		ports, err := d.ports(ctx, s.Name, c)
		if err != nil {
			return nil, err
		}
		for _, r := range c.Routes {
			out = append(out, Target{Listener: r.Listener, Host: r.Host, Mode: r.Mode, Core: s.Core, Backend: backendAddr(published(ports[r.Port], slot)), CertFile: r.Host})
		}
	}
	return out, nil
}

// URL is where a browser finds a host.
func (d *Deployer) URL(host string) string {
	if d.cfg.HTTPS == 443 {
		return "https://" + host
	}
	return "https://" + net.JoinHostPort(host, strconv.Itoa(d.cfg.HTTPS))
}

func (d *Deployer) path(elem ...string) string {
	return filepath.Join(append([]string{d.cfg.Root}, elem...)...)
}

func (d *Deployer) event(ctx context.Context, service, kind string, severity int, op, format string, args ...any) {
	err := d.cfg.Store.AddEvent(ctx, store.Event{Time: d.cfg.Now(), Service: service, Kind: kind, Severity: severity, Detail: fmt.Sprintf(format, args...), Op: op})
	if err != nil {
		d.cfg.Log.Error("write event", "service", service, "kind", kind, "err", err)
	}
}
