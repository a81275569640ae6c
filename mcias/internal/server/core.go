package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"runtime/debug"
	"strconv"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/hashpool"
	"metacircular.net/mcias/internal/mint"
	"metacircular.net/mcias/internal/oidc"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/rpc"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/token"
	"metacircular.net/mcias/internal/vault"
)

// leeway is added to the longest token life wherever something must outlive all tokens.
const leeway = 2 * time.Minute

// headroom is what the process needs beside the hashes.
const headroom = 96 << 20

// Core holds the domain parts of a running MCIAS.
type Core struct {
	DB        *db.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Vault     *vault.Vault
	Pool      *hashpool.Pool
	Keys      *token.Keys
	Hub       *revoke.Hub
	Directory *directory.Directory
	Sessions  *session.Sessions
	Authn     *authn.Authn
	Minter    *mint.Minter
	Hold      *mint.Hold
	OIDC      *oidc.Provider
	RPC       *rpc.Servers
	Verifier  *auth.Verifier
	done      chan struct{}
}

// killer is how long revocation rows live under a configuration.
func killer(cfg *Config) revoke.Killer {
	longest := max(cfg.Tokens.HumanTTL.D(), cfg.Tokens.ServiceTTL.D())
	return revoke.Killer{Life: longest + leeway, Session: cfg.Tokens.HumanTTL.D() + leeway}
}

// keysConfig is the keys' part of a configuration.
func keysConfig(cfg *Config) token.Config {
	return token.Config{RSABits: cfg.Keys.RSABits, Overlap: max(cfg.Tokens.HumanTTL.D(), cfg.Tokens.ServiceTTL.D()) + leeway}
}

// NewCore makes the parts on an initialized database. Slots may be nil: then they are made on the database.
func NewCore(ctx context.Context, cfg *Config, d *db.DB, clk clock.Clock, logger *slog.Logger, slots *keyslot.Slots) (*Core, error) {
	c := &Core{DB: d, Clock: clock.Or(clk), Log: log.Or(logger), Hold: &mint.Hold{}, done: make(chan struct{})}
	var err error
	if slots == nil {
		if slots, err = keyslot.New(keyslot.Config{Service: "mcias", Store: store.Slots{DB: d}, Clock: c.Clock}); err != nil {
			return nil, err
		}
	}
	debug.SetMemoryLimit(cfg.Argon2.Budget.Bytes() + headroom)
	c.Pool, err = hashpool.New(hashpool.Config{Params: cfg.Argon2.Params(), Budget: uint64(cfg.Argon2.Budget.Bytes()), //nolint:gosec // positive
		Queue: cfg.Argon2.Queue, Wait: cfg.Argon2.Wait.D()})
	if err != nil {
		return nil, err
	}
	c.Vault = vault.New(d, slots, c.Pool.Exclusive)
	c.Keys = token.New(d, c.Clock, keysConfig(cfg))
	c.Vault.Listen(c.Keys)
	if err := c.Keys.Load(ctx); err != nil {
		return nil, err
	}
	if c.Hub, err = revoke.NewHub(ctx, revoke.Config{DB: d, Keys: c.Keys, Clock: c.Clock, Log: c.Log, MaxStale: cfg.Tokens.MaxStale.D()}); err != nil {
		return nil, err
	}
	kill := killer(cfg)
	c.Directory = directory.New(directory.Config{DB: d, Clock: c.Clock, Log: c.Log, Killer: kill, Teller: c.Hub, Issuer: cfg.Issuer(),
		Domain: cfg.Domain(), Hold: c.Hold.Until})
	if err := c.Directory.Load(ctx); err != nil {
		return nil, err
	}
	if err := c.seen(ctx); err != nil {
		return nil, err
	}
	c.Sessions = session.New(session.Config{DB: d, Clock: c.Clock, Killer: kill, Max: cfg.Session.Max.D(), Idle: cfg.Session.Idle.D()})
	c.Authn = authn.New(authn.Config{DB: d, Clock: c.Clock, Pool: c.Pool, Vault: c.Vault, Sessions: c.Sessions, Directory: c.Directory,
		Throttle: authn.Throttle{Free: cfg.Throttle.Free, Max: cfg.Throttle.Max.D()}})
	c.Minter = mint.New(mint.Config{DB: d, Clock: c.Clock, Log: c.Log, Keys: c.Keys, Sessions: c.Sessions, Directory: c.Directory, Hub: c.Hub,
		Issuer: cfg.Issuer(), HumanTTL: cfg.Tokens.HumanTTL.D(), SystemTTL: cfg.Tokens.ServiceTTL.D()}, c.Hold)
	c.OIDC = oidc.New(oidc.Config{DB: d, Clock: c.Clock, Log: c.Log, Keys: c.Keys, Vault: c.Vault, Sessions: c.Sessions, Directory: c.Directory,
		Hub: c.Hub, Issuer: cfg.Issuer(), CheckClock: c.Minter.CheckClock})
	c.RPC = rpc.New(rpc.Config{DB: d, Clock: c.Clock, Log: c.Log, Authn: c.Authn, Sessions: c.Sessions, Directory: c.Directory, Minter: c.Minter,
		Keys: c.Keys, Vault: c.Vault, Hub: c.Hub, Killer: kill, Issuer: cfg.Issuer(), Done: c.done})
	return c, c.verifier(ctx, cfg)
}

// verifier makes MCIAS's own, fed by the hub of this process.
func (c *Core) verifier(ctx context.Context, cfg *Config) error {
	src := &auth.LocalSource{}
	if err := c.Hub.AddLocal(ctx, src); err != nil {
		return err
	}
	var err error
	c.Verifier, err = auth.New(auth.Config{Service: "mcias", Issuer: cfg.Issuer(), Source: src, Clock: c.Clock, Log: c.Log})
	return err
}

// seen loads the highest time seen, and the bound that a crash in the second of a kill would forget.
func (c *Core) seen(ctx context.Context) error {
	return c.DB.Read(ctx, func(v *db.View) error {
		s, err := store.Meta(v, store.MetaHighWater)
		if err != nil {
			return err
		}
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			c.Hold.Seen(n)
		}
		rows, err := store.Revocations(v, 0, c.Clock.Now(), 1<<20)
		for _, r := range rows {
			if r.Kind == revoke.Client || r.Kind == revoke.All {
				c.Hold.Until(r.Bound)
			}
		}
		return err
	})
}

// Autounseal opens the vault with the machine's credential, if there is one and nobody sealed by hand. Failing leaves
// it sealed: a sealed MCIAS serves keys, Watch and administration.
func (c *Core) Autounseal(ctx context.Context, file string) {
	sec, err := keyslot.ReadCredential("mcias", file)
	if errors.Is(err, fs.ErrNotExist) {
		c.Log.Info("sealed: no credential on this machine", "next", "mcias unseal")
		return
	}
	if err != nil {
		c.Log.Error("sealed: the credential is refused", log.Err(err))
		return
	}
	defer clear(sec.Value)
	held, err := c.Vault.Held(ctx)
	if err == nil && held {
		c.Log.Info("sealed by hand: the credential does not open it", "next", "mcias unseal")
		return
	}
	if err == nil {
		err = c.Vault.Unseal(ctx, sec, keyslot.Local)
	}
	if err == nil {
		err = c.DB.Write(ctx, func(tx *db.Tx) error {
			return audit.Append(tx, c.Clock.Now(), audit.By{Name: "local:credential"}.Record("vault.unseal", "vault", "slot", "credential"))
		})
	}
	if err != nil {
		c.Log.Error("sealed: the credential does not open it", log.Err(err))
		return
	}
	c.Log.Info("unsealed by the machine's credential")
}

// Close ends open Watch streams.
func (c *Core) Close() {
	select {
	case <-c.done:
	default:
		close(c.done)
	}
}

// sweepEvery is how often what is over is cleared away.
const sweepEvery = time.Minute

// Maintain does what must be done now and then, until ctx ends.
func (c *Core) Maintain(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			// The last counts are written on the way out.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return c.Minter.Flush(end)
		case <-t.C:
		}
		if err := c.Sweep(ctx); err != nil && ctx.Err() == nil {
			c.Log.Error("maintenance", log.Err(err))
		}
	}
}

// Sweep is one round of maintenance.
func (c *Core) Sweep(ctx context.Context) error {
	n, err := c.Sessions.Sweep(ctx)
	if err != nil {
		return err
	}
	moved, err := c.Keys.Retire(ctx)
	if err != nil {
		return err
	}
	if n > 0 || moved {
		c.Hub.Wake()
	}
	return c.Minter.Flush(ctx)
}

// auditSeq is the number of the newest audit record, 0 if it cannot be read.
func (c *Core) auditSeq(ctx context.Context) (seq int64) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := c.DB.Read(ctx, func(v *db.View) error {
		head, err := store.AuditHead(v)
		seq = head.Seq
		return err
	})
	if err != nil {
		return 0
	}
	return seq
}
