package service

import (
	"context"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcr/internal/cmd"
	"metacircular.net/mcr/internal/oci"
	"metacircular.net/mcr/internal/rpc"
	"metacircular.net/mcr/internal/store"
	"metacircular.net/mcr/internal/ui"
)

// New returns the service: server, administrator's client and offline tool in one binary.
func New() cli.Service[Config] {
	return cli.Service[Config]{
		Name:       "mcr",
		Short:      "The platform's registry of images and artifacts.",
		Rules:      Rules(),
		Build:      build,
		Commands:   func(e *cli.Env, _ func() (Config, error)) []*cobra.Command { return cmd.All(e) },
		Migrations: store.Migrations(),
		Exclude:    exclude,
		OnRestore:  onRestore,
	}
}

// Rules are the access rules of the contract and of /v2/; the pages bring theirs when there are pages. The two
// maps have no key in common: one holds RPCs, the other routes.
func Rules() auth.Map {
	m := auth.Map{}
	for _, part := range []auth.Map{oci.Rules(), rpc.Rules()} {
		maps.Copy(m, part)
	}
	return m
}

func build(ctx context.Context, cfg Config, b *cli.Builder) error {
	d, err := b.OpenDB(ctx)
	if err != nil {
		return err
	}
	p, err := NewParts(ctx, cfg, d, b.Log, b.Clock)
	if err != nil {
		return err
	}
	b.Before(p.Workers()...)
	b.Server.Register = p.RPC.Register
	b.Server.REST = REST()
	b.Server.Routes = p.Registry.Routes
	b.Server.RefuseRoute = p.Registry.Refuse
	b.Health.Add(checks(p)...)
	measure(p, b.Metrics)
	cli.OnReload(b, func(ctx context.Context, cfg Config) error { return p.ApplyRules(ctx, cfg) })
	if b.Key == nil { // a registry without pages: tokens still count
		return nil
	}
	if b.Server.Rules, err = auth.Merge(b.Server.Rules, ui.Rules()); err != nil {
		return err
	}
	_, err = b.Pages(ui.Config(cfg.host()))
	return err
}

// host is what people write before a repository's name.
func (c *Config) host() string {
	if c.Registry.PublicURL == "" {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(c.Registry.PublicURL, "https://"), "/")
}

func checks(p *Parts) []health.Check {
	return []health.Check{
		{Code: "content", Title: "content can be read", Duty: true, Run: func(ctx context.Context) health.Result {
			if _, _, err := p.Blobs.Disk(); err != nil {
				return health.Failed("the content folder does not answer: %v", err)
			}
			if _, err := p.Store.Meta(ctx, "event_epoch"); err != nil {
				return health.Failed("the database does not answer: %v", err)
			}
			return health.OK("database and content folder answer")
		}},
		{Code: "space", Title: "room for pushes", Run: func(context.Context) health.Result {
			if err := p.Disk.Admit(); err != nil {
				return health.Failed("%v", err).Do("mcr gc --wait")
			}
			warn, err := p.Disk.Check()
			if err != nil {
				return health.Failed("%v", err)
			}
			if warn != "" {
				return health.Warning("the registry's disk is %s", warn).Do("mcr gc --wait")
			}
			return health.OK("pushes are taken")
		}},
		{Code: "blobs", Title: "no damaged blob", DependsOn: []string{"content"}, Run: func(ctx context.Context) health.Result {
			u, err := p.Store.Usage(ctx)
			if err != nil {
				return health.Failed("%v", err)
			}
			if u.Quarantined > 0 {
				return health.Failed("%d damaged blobs were put aside; pushing their images again heals them", u.Quarantined).Do("mcr verify --status")
			}
			return health.OK("%d blobs", u.Blobs)
		}},
	}
}

// exclude keeps content out of snapshots: copying every blob beside itself would double the disk. The
// database lists the digests.
func exclude(_ Config, rel string) bool {
	for _, dir := range []string{"blobs", "uploads", "quarantine"} {
		if rel == dir || strings.HasPrefix(rel, dir+"/") {
			return true
		}
	}
	return false
}
