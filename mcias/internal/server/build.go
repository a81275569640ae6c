package server

import (
	"context"
	"maps"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/run"

	"metacircular.net/mcias/internal/oidc"
	"metacircular.net/mcias/internal/rpc"
	"metacircular.net/mcias/internal/vault"
)

// Rules returns one rule per method and hand-written route. The pages bring theirs.
func Rules() auth.Map {
	m := rpc.Rules()
	maps.Copy(m, oidc.Rules())
	maps.Copy(m, rpc.RegistryRules())
	return m
}

// Build makes MCIAS's parts and hands them to the server.
func Build(ctx context.Context, cfg Config, b *cli.Builder) error {
	if err := Initialized(&cfg); err != nil {
		return err
	}
	d, err := b.OpenDB(ctx)
	if err != nil {
		return err
	}
	c, err := NewCore(ctx, &cfg, d, b.Clock, b.Log, nil)
	if err != nil {
		return err
	}
	b.Server.Verifier = c.Verifier
	b.Server.Register = c.RPC.Register
	b.Server.REST = rpc.REST()
	b.Server.Routes = func(r chi.Router) {
		c.OIDC.Routes(r)
		c.RPC.RegistryRoutes(r)
	}
	b.Server.Sealed = func() error {
		if c.Vault.Open() {
			return nil
		}
		return vault.ErrSealed()
	}
	b.Health.State(func() string {
		if !c.Vault.Open() {
			return vault.Sealed
		}
		return ""
	})
	b.Health.Add(sealCheck(c))
	b.Health.Extra(func() map[string]any {
		return map[string]any{"stream_id": c.Hub.StreamID(), "revocation_seq": c.Hub.Seq(), "audit_seq": c.auditSeq(context.Background())}
	})
	if err := pages(&cfg, c, b); err != nil {
		return err
	}
	measure(b, c)
	b.Before(run.Background("revocations", c.Hub.Run),
		run.Component{Name: "vault", Start: func(ctx context.Context) error { c.Autounseal(ctx, cfg.Vault.CredentialFile); return nil },
			Stop: func(context.Context) error { c.Vault.Seal(); return nil }},
		run.Background("maintenance", c.Maintain))
	b.After(run.Component{Name: "watch streams", Stop: func(context.Context) error { c.Close(); return nil }})
	return nil
}

// sealCheck says sealed is on purpose and what opens it. It is no duty: a restart would not help.
func sealCheck(c *Core) health.Check {
	return health.Check{Code: "vault", Title: "vault", Run: func(context.Context) health.Result {
		if c.Vault.Open() {
			return health.OK("unsealed")
		}
		return health.Warning("sealed: nobody can sign in; keys, revocations and administration work").Do("mcias unseal")
	}}
}

// measure registers the service's own metrics.
func measure(b *cli.Builder, c *Core) {
	b.Metrics.Gauge("mcias_sealed", "1 while the vault is sealed.", nil, func() float64 {
		if c.Vault.Open() {
			return 0
		}
		return 1
	})
	b.Metrics.Gauge("mcias_hash_inflight", "Password hashes running.", nil, func() float64 { return float64(c.Pool.Stats().Inflight) })
	b.Metrics.Gauge("mcias_hash_queue", "Sign-ins waiting for the hash pool.", nil, func() float64 { return float64(c.Pool.Stats().Queued) })
	b.Metrics.Gauge("mcias_policy_revision", "Revision of the login policy.", nil, func() float64 { return float64(c.Directory.Policy().Revision()) })
	b.Metrics.Gauge("mcias_watchers", "Instances that watch, connected now.", nil, func() float64 {
		n := 0
		for _, w := range c.Hub.Watchers() {
			if w.GetConnected() {
				n++
			}
		}
		return float64(n)
	})
}
