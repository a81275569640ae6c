package service

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/run"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
	"metacircular.net/metacrypt/internal/command"
	"metacircular.net/metacrypt/internal/engine"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/rpc"
	"metacircular.net/metacrypt/internal/seal"
	"metacircular.net/metacrypt/internal/store"
	"metacircular.net/metacrypt/internal/ui"
)

// renewGrace is how long after its expiry a certificate can still be renewed by its key: a machine that was off for a
// month comes back by itself.
const renewGrace = 30 * 24 * time.Hour

// Metacrypt describes the binary.
func Metacrypt() cli.Service[Config] {
	rules := rpc.Rules()
	maps.Copy(rules, ui.Rules())
	return cli.Service[Config]{
		Name: "metacrypt", Short: "The platform's certificate authority and secrets, behind one seal",
		Rules: rules, Build: build, Migrations: store.Migrations,
		Commands: func(e *cli.Env, _ func() (Config, error)) []*cobra.Command { return command.All(e) },
	}
}

// build makes the server's parts.
func build(ctx context.Context, cfg Config, b *cli.Builder) error {
	harden(b)
	database, err := b.OpenDB(ctx)
	if err != nil {
		return err
	}
	keeper := newKeeper(b.Log)
	s, err := seal.New(ctx, seal.Config{
		DB: database, CredentialFile: cfg.Seal.CredentialFile, Clock: b.Clock, Log: b.Log, OnUnseal: keeper.kick,
		Slots:   keyslot.Config{BackoffMax: cfg.Seal.BackoffMax.D()},
		Engines: engine.Config{PKI: pki.Config{PublicURL: cfg.PKI.PublicURL, RenewGrace: renewGrace, Clock: b.Clock}, Clock: b.Clock},
	})
	if err != nil {
		return err
	}
	keeper.seal = s
	public := pki.NewPublic(database)
	srv := &rpc.Server{Seal: s, Public: public, Version: b.Version, Clock: b.Clock, Kick: keeper.kick}
	b.Server.Register = srv.Register
	b.Server.REST = append(b.Server.REST, metacryptv1.RegisterSystemHandler, metacryptv1.RegisterSlotsHandler, metacryptv1.RegisterPKIHandler,
		metacryptv1.RegisterPolicyHandler, metacryptv1.RegisterKVHandler)
	b.Server.Routes = rpc.Routes(public)
	b.Server.Sealed = s.Sealed
	if err := pages(b); err != nil {
		return err
	}
	b.Health.Add(sealCheck(s), crlCheck(s, public, b.Clock.Now))
	b.Health.State(func() string {
		if s.Status(context.Background()).State == seal.Sealed {
			return "sealed"
		}
		return ""
	})
	b.Health.Extra(func() map[string]any {
		st := s.Status(context.Background())
		return map[string]any{"seal": string(st.State), "generation": st.Generation, "instance_id": st.Instance}
	})
	b.Metrics.Gauge("metacrypt_seal_state", "0 = uninitialized, 1 = sealed, 2 = unsealed.", nil, func() float64 {
		switch s.Status(context.Background()).State {
		case seal.Uninitialized, seal.Initializing:
			return 0
		case seal.Unsealed:
			return 2
		default:
			return 1
		}
	})
	b.Before(run.Component{Name: "seal",
		Start: func(ctx context.Context) error { s.Start(ctx); return nil },
		Stop: func(ctx context.Context) error {
			if s.Status(ctx).State == seal.Uninitialized {
				return nil
			}
			return s.Stop(ctx)
		}})
	if cfg.PKI.HTTPAddr != "" {
		b.Before(plainHTTP(cfg.PKI.HTTPAddr, rpc.PlainHTTP(public)))
	}
	b.After(run.Background("revocation lists", keeper.run))
	return nil
}

// pages adds the pages: with sign-in at MCIAS where there is one, else with what needs none.
func pages(b *cli.Builder) error {
	cfg, err := ui.Config()
	if err != nil {
		return err
	}
	if b.Issuer() == "" || b.Key == nil {
		return b.Site(cfg)
	}
	_, err = b.Pages(cfg)
	return err
}

// harden keeps key material out of core files and away from other processes of the same user. A failure is no reason
// not to start, but is said.
func harden(b *cli.Builder) {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		b.Log.Warn("core files could not be switched off", "err", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		b.Log.Warn("the process could not be made undumpable", "err", err)
	}
}

// plainHTTP serves public files without TLS.
func plainHTTP(addr string, h http.Handler) run.Component {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 16 << 10}
	return run.Component{Name: "public files",
		Start: func(ctx context.Context) error {
			ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
			if err != nil {
				return fmt.Errorf("listen on %s for [pki] http_addr: %w", addr, err)
			}
			go func() {
				if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
					run.Fail(ctx, fmt.Errorf("public files: %w", err))
				}
			}()
			return nil
		},
		Stop: srv.Shutdown}
}

// sealCheck says how the seal is. It is no duty: a restart opens nothing.
func sealCheck(s *seal.Seal) health.Check {
	return health.Check{Code: "seal", Title: "seal", Run: func(ctx context.Context) health.Result {
		st := s.Status(ctx)
		switch st.State {
		case seal.Unsealed:
			if len(st.Broken) > 0 {
				return health.Failed("%d mounts did not load", len(st.Broken)).Do("metacrypt doctor --json")
			}
			return health.OK("unsealed, generation %d", st.Generation)
		case seal.Uninitialized:
			return health.Warning("not initialized").Do("metacrypt init --recovery-out FILE")
		default:
			return health.Warning("%s: new certificates and secrets wait. %s", st.State, st.Reason).Do("metacrypt unseal")
		}
	}}
}
