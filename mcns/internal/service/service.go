// Package service assembles MCNS: it reads top to bottom in the order in which things start. DNS answers
// from the snapshot file before the database opens, and goes on without one.
package service

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/run"

	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/cmd"
	"metacircular.net/mcns/internal/forward"
	"metacircular.net/mcns/internal/registry"
	"metacircular.net/mcns/internal/rpc"
	"metacircular.net/mcns/internal/serve"
	"metacircular.net/mcns/internal/settings"
	"metacircular.net/mcns/internal/store"
	"metacircular.net/mcns/internal/ui"
	"metacircular.net/mcns/internal/zone"
)

// snapshotFile lies beside the database.
const snapshotFile = "snapshot.bin"

// New returns the service: server, administrator's client and offline tool in one binary.
func New() cli.Service[settings.Config] {
	return cli.Service[settings.Config]{
		Name:       "mcns",
		Short:      "The platform's name service: zones with an API, forwarding, and the registry of services.",
		Rules:      rpc.Rules(),
		Build:      build,
		Commands:   func(e *cli.Env, _ func() (settings.Config, error)) []*cobra.Command { return cmd.All(e) },
		Migrations: store.Migrations(),
		// What is served stays out: after a restore the highest served serials must still be known.
		Exclude: func(_ settings.Config, rel string) bool { return strings.HasPrefix(rel, snapshotFile) },
	}
}

func build(ctx context.Context, cfg settings.Config, b *cli.Builder) error {
	since := b.Clock.Now()
	platform := ""
	if cfg.Registry.Zone != "" {
		var err error
		if platform, err = zone.Canonical(cfg.Registry.Zone); err != nil {
			return err
		}
	}
	cat, served := catalog.New(catalog.Config{Snapshot: filepath.Join(filepath.Dir(cfg.Database.Path), snapshotFile), Platform: platform, Clock: b.Clock, Log: b.Log})
	resolver := forward.New(forward.Config{Cache: cfg.Cache, Clock: b.Clock, Log: b.Log})
	var allowed atomic.Pointer[[]netip.Prefix]
	handler := &serve.Handler{View: cat.View, Forward: resolver, UDPSize: cfg.DNS.UDPSize, NSID: cfg.DNS.NSID, Allow: func(a netip.Addr) bool {
		for _, p := range *allowed.Load() {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}}
	listeners := serve.NewListeners(serve.Config{Handler: handler, Log: b.Log, TCP: serve.TCPLimits{MaxConns: cfg.DNS.TCP.MaxConns,
		PerPrefix: cfg.DNS.TCP.PerPrefix, FirstByte: cfg.DNS.TCP.FirstByte.D(), Idle: cfg.DNS.TCP.Idle.D()}})
	b.Before(run.Component{Name: "DNS", Stop: listeners.Close})
	apply := func(_ context.Context, c settings.Config) error {
		prefixes := c.Recursion.Allowed()
		allowed.Store(&prefixes)
		if err := resolver.Set(c.Recursion.Upstreams, c.Forward); err != nil {
			return err
		}
		return listeners.Set(settings.Listeners(c.DNS.Listen), settings.Listeners(c.DNS.PublicListen))
	}
	if err := apply(ctx, cfg); err != nil { // names are answered from here on
		return err
	}
	reg := registry.New(registry.Config{Catalog: cat, TTL: cfg.Registry.TTL, Lease: cfg.Registry.Lease.D(), Clock: b.Clock, Log: b.Log})
	if err := openDatabase(ctx, cfg, b, cat, reg, served); err != nil {
		return err
	}
	b.Before(run.Background("leases", reg.Run))
	srv := &rpc.Server{Catalog: cat, Registry: reg, Resolver: resolver, Handler: handler, Listeners: listeners, Platform: platform, Since: since, Now: b.Clock.Now}
	b.Server.Register = srv.Register
	b.Server.REST = rpc.REST()
	b.Health.Add(checks(srv)...)
	measure(srv, b.Metrics)
	cli.OnReload(b, apply)
	if b.Key == nil { // no key file configured: no pages, tokens still count
		return nil
	}
	var err error
	if b.Server.Rules, err = auth.Merge(b.Server.Rules, ui.Rules()); err != nil {
		return err
	}
	_, err = b.Pages(ui.Config())
	return err
}

// openDatabase makes the database the truth, or leaves MCNS degraded: with names to serve, a database that
// is missing, damaged or newer must not stop it, and must not be replaced by an empty one.
func openDatabase(ctx context.Context, cfg settings.Config, b *cli.Builder, cat *catalog.Catalog, reg *registry.Registry, served bool) error {
	degrade := func(err error) error {
		cat.Degrade(err)
		b.Log.Error("degraded: names are answered from the snapshot, nothing can be changed", log.Err(err))
		return nil
	}
	if _, err := os.Stat(cfg.Database.Path); served && errors.Is(err, fs.ErrNotExist) {
		return degrade(fault.New(fault.Precondition, "the database %s is missing, though names were served before", cfg.Database.Path).
			WithNext("mcns restore FILE, or remove %s to begin anew", filepath.Join(filepath.Dir(cfg.Database.Path), snapshotFile)))
	}
	if st, err := os.Stat(cfg.Database.Path); err == nil && served && st.Size() == 0 {
		return degrade(fault.New(fault.Precondition, "the database %s is empty, though names were served before", cfg.Database.Path).WithNext("mcns restore FILE"))
	}
	d, err := b.OpenDB(ctx)
	if err != nil {
		if served && !fault.HasReason(err, "LOCKED") {
			return degrade(err)
		}
		return err
	}
	if err := errors.Join(cat.Attach(ctx, d), reg.Load(ctx, d)); err != nil {
		if served {
			return degrade(err)
		}
		return err
	}
	return nil
}
