package master

import (
	"context"
	"net"
	"regexp"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/run"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
	"metacircular.net/mcp/internal/master/store"
	"metacircular.net/mcp/internal/master/ui"
)

var nodeName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// Master is the service's parts. Safe for concurrent use.
type Master struct {
	domain        string
	store         *store.Store
	hub           *hub
	tokens        *exchanged
	clock         clock.Clock
	started       time.Time
	suspect, down time.Duration
}

// Service returns what the mcp binary is as a server. The operator's verbs are added by main.
func Service() cli.Service[Config] {
	return cli.Service[Config]{
		Name: "mcp", Short: "Deploys and keeps services running on the platform's nodes.",
		Rules: Rules(), Migrations: store.Migrations(), Build: build,
	}
}

func build(ctx context.Context, cfg Config, b *cli.Builder) error {
	if b.Roots == nil || b.Cert == nil || b.Key == nil {
		return fault.New(fault.Invalid, "[server] addresses, [mcias] ca_cert and key_file are needed").WithReason("BAD_CONFIG")
	}
	d, err := b.OpenDB(ctx)
	if err != nil {
		return err
	}
	mcias, err := b.MCIAS()
	if err != nil {
		return err
	}
	st, c := store.New(d), clock.Or(b.Clock)
	m := &Master{domain: cfg.Domain(), store: st, tokens: newExchanged(auth.NewMinter(mcias, b.Key), c), clock: c, started: time.Now(),
		suspect: cfg.Nodes.Suspect.D(), down: cfg.Nodes.Down.D(),
		hub: &hub{domain: cfg.Domain(), roots: b.Roots, cert: b.Cert, store: st, heartbeat: cfg.Nodes.Heartbeat.D(), log: b.Log, clock: c,
			up: map[string]*link{}, seen: map[string]*inventory{}}}
	b.Server.Register = func(r grpc.ServiceRegistrar) {
		mcpv1.RegisterServicesServer(r, services{Master: m})
		mcpv1.RegisterOpsServer(r, ops{Master: m})
		mcpv1.RegisterRuntimeServer(r, runtimes{Master: m})
		mcpv1.RegisterEventsServer(r, events{Master: m})
		mcpv1.RegisterInsightServer(r, insight{Master: m})
		mcpv1.RegisterNodesServer(r, nodes{Master: m})
	}
	b.Server.REST = []gateway.Register{mcpv1.RegisterServicesHandler, mcpv1.RegisterOpsHandler, mcpv1.RegisterRuntimeHandler,
		mcpv1.RegisterEventsHandler, mcpv1.RegisterInsightHandler, mcpv1.RegisterNodesHandler}
	if _, err := b.Pages(ui.Config()); err != nil {
		return err
	}
	b.Health.Add(health.Check{Code: "nodes", Title: "nodes are connected", Run: m.checkNodes})
	b.After(m.door(cfg.Nodes.ListenAddr, b.Server.Proxy))
	return nil
}

// door listens for agents.
func (m *Master) door(addr string, proxy httpserver.Proxy) run.Component {
	var ln net.Listener
	done := make(chan struct{})
	return run.Component{Name: "agents' door",
		Start: func(ctx context.Context) (err error) {
			if ln, err = httpserver.Listen(ctx, addr, proxy, m.hub.log); err != nil {
				return err
			}
			go func() {
				defer close(done)
				if err := m.hub.serve(ctx, ln); err != nil {
					run.Fail(ctx, err)
				}
			}()
			return nil
		},
		Stop: func(ctx context.Context) error {
			err := ln.Close()
			select {
			case <-done:
			case <-ctx.Done():
				return ctx.Err()
			}
			return err
		}}
}

func (m *Master) checkNodes(ctx context.Context) health.Result {
	rows, err := m.store.Nodes(ctx)
	if err != nil {
		return health.Failed("read the nodes: %v", err)
	}
	if len(rows) == 0 {
		return health.Warning("no node has joined").Do("mcp up")
	}
	for _, n := range rows {
		switch s := m.state(n); s {
		case "down", "suspect":
			return health.Warning("node %s is %s", n.Name, s).Do("on the node: mcp --local doctor")
		}
	}
	return health.OK("%d nodes, all heard of", len(rows))
}
