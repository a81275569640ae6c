package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/run"
	"metacircular.net/mcdsl/tlsutil"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/deploy"
	"metacircular.net/mcp/internal/dialin"
	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/engine/docker"
	"metacircular.net/mcp/internal/engine/proc"
	"metacircular.net/mcp/internal/oci"
	"metacircular.net/mcp/internal/store"
	"metacircular.net/mcp/internal/wire/dns"
	"metacircular.net/mcp/internal/wire/pki"
	"metacircular.net/mcp/internal/wire/proxy"
)

// Name is the agent's service name: folder, socket and configuration file bear it.
const Name = "mcp-agent"

// Config is mcp-agent.toml.
type Config struct {
	Server config.Server `toml:"server"`
	MCIAS  config.MCIAS  `toml:"mcias"`
	Log    config.Log    `toml:"log"`
	Agent  Node          `toml:"agent"`
	Engine Engine        `toml:"engine"`
}

// Node is [agent].
type Node struct {
	Node      string `toml:"node"`
	Platform  string `toml:"platform"`
	Domain    string `toml:"domain"`
	Root      string `toml:"root"`
	HTTPSPort int    `toml:"https_port" default:"443"`
	GRPCPort  int    `toml:"grpc_port" default:"9443"`
}

// Engine is [engine].
type Engine struct {
	Kind   string `toml:"kind" default:"proc"`
	Socket string `toml:"socket"`
}

// Validate refuses what no agent could run with.
func (c *Config) Validate() error {
	for key, v := range map[string]string{"agent.node": c.Agent.Node, "agent.platform": c.Agent.Platform, "agent.domain": c.Agent.Domain, "agent.root": c.Agent.Root} {
		if v == "" {
			return fault.Field1(key, "is needed; mcp up and mcp agent join write it")
		}
	}
	switch c.Engine.Kind {
	case "proc", "docker", "podman":
		return nil
	}
	return fault.Field1("engine.kind", "%q is not docker, podman or proc", c.Engine.Kind)
}

// Rules has one row per method. The socket's peers are root and the platform's owner; tokens of aud mcp/<node> reach the
// agent through the master only.
func Rules() auth.Map {
	read, write := auth.Roles(auth.RoleAdmin), auth.Roles(auth.RoleAdmin).Privileged().Audited(nil)
	endless := func(r auth.Rule) auth.Rule { r.Deadline = -1; return r }
	return auth.Map{
		mcpv1.Services_Validate_FullMethodName:     read,
		mcpv1.Services_Plan_FullMethodName:         read,
		mcpv1.Services_Deploy_FullMethodName:       endless(write),
		mcpv1.Services_Rollback_FullMethodName:     endless(write),
		mcpv1.Services_Start_FullMethodName:        endless(write),
		mcpv1.Services_Stop_FullMethodName:         endless(write),
		mcpv1.Services_Restart_FullMethodName:      endless(write),
		mcpv1.Services_Undeploy_FullMethodName:     endless(write),
		mcpv1.Services_GetService_FullMethodName:   read,
		mcpv1.Services_ListServices_FullMethodName: read,
		mcpv1.Services_History_FullMethodName:      read,
		mcpv1.Ops_GetOp_FullMethodName:             read,
		mcpv1.Ops_ListOps_FullMethodName:           read,
		mcpv1.Ops_WatchOp_FullMethodName:           endless(read),
		mcpv1.Ops_CancelOp_FullMethodName:          write,
		mcpv1.Insight_Doctor_FullMethodName:        read,
		mcpv1.Runtime_Stats_FullMethodName:         read,
		mcpv1.Runtime_Logs_FullMethodName:          endless(read),
		mcpv1.NodeLocal_SyncHosts_FullMethodName:   auth.Local().Audited(nil),
		mcpv1.Events_ListEvents_FullMethodName:     read,
		mcpv1.Insight_Status_FullMethodName:        read,
		mcpv1.NodeLocal_Inventory_FullMethodName:   auth.Local(),
		mcpv1.Platform_Ports_FullMethodName:        auth.Local().Audited(nil),
		mcpv1.Platform_Down_FullMethodName:         endless(auth.Local().Audited(nil)),
		mcpv1.Platform_Up_FullMethodName:           endless(auth.Local().Audited(nil)),
		mcpv1.Platform_Destroy_FullMethodName:      endless(auth.Local().Audited(nil)),
	}
}

// Service is the agent as a binary: `mcp agent`.
func Service() cli.Service[Config] {
	return cli.Service[Config]{Name: Name, Short: "Runs this node's services.", Prefix: "MCP_AGENT", Rules: Rules(), Build: build,
		Commands: func(e *cli.Env, _ func() (Config, error)) []*cobra.Command { return []*cobra.Command{supervise(e)} }}
}

func build(ctx context.Context, cfg Config, b *cli.Builder) error {
	st, err := store.Open(ctx, filepath.Join(b.Dir, "mcp-agent.db"), b.Version)
	if err != nil {
		return err
	}
	images, err := oci.Open(filepath.Join(b.Dir, "images"))
	if err != nil {
		return err
	}
	engines, err := openEngines(cfg, b.Dir)
	if err != nil {
		return err
	}
	root := cfg.Agent.Root
	sock := func(svc string) (*grpc.ClientConn, error) {
		return grpc.NewClient("unix:"+filepath.Join(root, "run", svc+".sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	proxyConn, err := sock("mc-proxy")
	if err != nil {
		return err
	}
	account, err := node(cfg, b)
	if err != nil {
		return err
	}
	owner := -1
	if os.Geteuid() == 0 {
		owner = 850 // MC-Proxy's UID
	}
	core := func(svc string) string { return svc + "." + cfg.Agent.Domain }
	hosts := func() map[string]string {
		out := map[string]string{}
		for _, svc := range []string{"mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcp", "mcat"} {
			out[core(svc)] = "127.0.0.1"
		}
		return out
	}
	d, err := deploy.New(ctx, deploy.Config{
		Store: st, Images: images, Engines: engines, Default: cfg.Engine.Kind,
		Router:   proxy.New(proxyConn, "/srv/mc-proxy/certs/hop.key"),
		Names:    account.names(root, cfg),
		Issuer:   pki.New(account.conns["metacrypt"], pki.Config{Dir: filepath.Join(root, "mc-proxy", "certs"), Owner: owner, Mount: "pki", Root: filepath.Join(root, "ca.pem"), Now: time.Now}),
		Registry: account.registry(cfg, b),
		Root:     root, Platform: cfg.Agent.Platform, Node: cfg.Agent.Node, Domain: cfg.Agent.Domain, HTTPS: cfg.Agent.HTTPSPort,
		Hosts: hosts, Log: b.Log, Now: time.Now,
	})
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, d: d, store: st, engines: engines, version: b.Version, dir: b.Dir}
	b.Server.Register = func(r grpc.ServiceRegistrar) {
		mcpv1.RegisterServicesServer(r, s)
		mcpv1.RegisterOpsServer(r, s)
		mcpv1.RegisterRuntimeServer(r, s)
		mcpv1.RegisterEventsServer(r, s)
		mcpv1.RegisterInsightServer(r, s)
		mcpv1.RegisterNodeLocalServer(r, s)
		mcpv1.RegisterPlatformServer(r, s)
	}
	b.Server.REST = []gateway.Register{mcpv1.RegisterServicesHandler, mcpv1.RegisterOpsHandler, mcpv1.RegisterRuntimeHandler, mcpv1.RegisterEventsHandler, mcpv1.RegisterInsightHandler}
	cert, err := tlsutil.NewCertificate(tlsutil.Config{CertFile: filepath.Join(b.Dir, "certs", "node.pem"), KeyFile: filepath.Join(b.Dir, "certs", "node.key"),
		Roots: b.Roots, Client: true, Log: b.Log})
	if err != nil {
		return fmt.Errorf("the node's certificate: %w", err)
	}
	// The master runs on this node: its door is a port of ours.
	masterPort, err := d.Ports(ctx, "mcp", "mcp", "nodes")
	if err != nil {
		return err
	}
	door, err := dialin.New(dialin.Config{Addr: net.JoinHostPort("mcp."+cfg.Agent.Domain, fmt.Sprint(masterPort)), Hosts: b.Hosts, Roots: b.Roots, Cert: cert, Local: s, Log: b.Log})
	if err != nil {
		return err
	}
	b.Server.REST = append(b.Server.REST, door.Register)
	b.After(run.Background("node certificate", cert.Watch), run.Background("dial-in", door.Run))
	var loop chan struct{}
	var end context.CancelFunc
	b.After(run.Component{
		Name: "deployer",
		Start: func(ctx context.Context) error {
			if err := d.Recover(ctx); err != nil {
				return fmt.Errorf("decide interrupted operations: %w", err)
			}
			var rctx context.Context
			rctx, end = context.WithCancel(context.WithoutCancel(ctx))
			loop = make(chan struct{})
			go func() {
				defer close(loop)
				if err := d.Run(rctx); err != nil {
					b.Log.Error("reconcile", "err", err)
				}
			}()
			return nil
		},
		Stop: func(context.Context) error {
			end()
			d.Close()
			<-loop
			return st.Close()
		},
	})
	return nil
}

// openEngines opens proc always, since MC-Proxy and MCNS run on it, and the chosen engine.
func openEngines(cfg Config, dir string) (map[string]engine.Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	pe, err := proc.New(proc.Config{Dir: filepath.Join(dir, "proc"), Self: self, Platform: cfg.Agent.Platform})
	if err != nil {
		return nil, err
	}
	engines := map[string]engine.Engine{"proc": pe}
	if cfg.Engine.Kind != "proc" {
		de, err := docker.New(docker.Config{Socket: cfg.Engine.Socket, Platform: cfg.Agent.Platform})
		if err != nil {
			return nil, err
		}
		engines[cfg.Engine.Kind] = de
	}
	return engines, nil
}

// account is what the node may do at the other services.
type account struct {
	key    *auth.ServiceKey
	conns  map[string]*grpc.ClientConn
	tokens map[string]*auth.TokenSource
}

// node dials the core by name, through MC-Proxy, under the node's account. Nothing is asked before the first call, and
// the key file may come later.
func node(cfg Config, b *cli.Builder) (*account, error) {
	a := &account{key: b.Key, conns: map[string]*grpc.ClientConn{}, tokens: map[string]*auth.TokenSource{}}
	target := func(svc string) string {
		return net.JoinHostPort(svc+"."+cfg.Agent.Domain, fmt.Sprint(cfg.Agent.GRPCPort))
	}
	mcias, err := auth.Dial(auth.DialConfig{Target: target("mcias"), Hosts: b.Hosts, Roots: b.Roots})
	if err != nil {
		return nil, fmt.Errorf("dial mcias: %w", err)
	}
	for _, svc := range []string{"metacrypt", "mcns", "mcr"} {
		a.tokens[svc] = auth.Tokens(b.Key, mcias, svc)
		if a.conns[svc], err = auth.Dial(auth.DialConfig{Target: target(svc), Hosts: b.Hosts, Roots: b.Roots, Creds: a.tokens[svc]}); err != nil {
			return nil, fmt.Errorf("dial %s: %w", svc, err)
		}
	}
	return a, nil
}

func (a *account) names(_ string, cfg Config) deploy.Names {
	var reserve []string
	for _, svc := range []string{"mcias", "metacrypt", "mcr", "mcns", "mcp", "mcat"} {
		reserve = append(reserve, svc+"."+cfg.Agent.Domain)
	}
	return dns.New(a.conns["mcns"], dns.Config{Zone: cfg.Agent.Domain, Node: cfg.Agent.Node, Addrs: []string{"127.0.0.1"}, HTTPS: cfg.Agent.HTTPSPort,
		GRPC: cfg.Agent.GRPCPort, Epoch: time.Now().Unix(), Reserve: reserve})
}

// registry is MCR by its name; there is one once the node has a key to sign in with.
func (a *account) registry(cfg Config, b *cli.Builder) func() (oci.Registry, bool) {
	host := net.JoinHostPort("mcr."+cfg.Agent.Domain, fmt.Sprint(cfg.Agent.HTTPSPort))
	transport := b.Roots.Transport(b.Hosts.DialContext)
	return func() (oci.Registry, bool) {
		if _, err := a.key.Account(); err != nil {
			return oci.Registry{}, false
		}
		return oci.Registry{Host: host, Transport: transport, Auth: func(ctx context.Context) (authn.Authenticator, error) {
			token, err := a.tokens["mcr"].Token(ctx)
			if err != nil {
				return nil, fmt.Errorf("sign in at the registry: %w", err)
			}
			return authn.FromConfig(authn.AuthConfig{RegistryToken: token}), nil // a platform token needs no realm
		}}, true
	}
}
