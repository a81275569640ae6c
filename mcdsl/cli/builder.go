package cli

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/metrics"
	"metacircular.net/mcdsl/run"
	"metacircular.net/mcdsl/tlsutil"
	"metacircular.net/mcdsl/web"
)

// Builder is what Build gets: the parts that are there, and the places for the service's own. It belongs to the start
// of the server and is used by one goroutine.
type Builder struct {
	Service string
	Version string
	Dir     string // the service's folder: that of its configuration file
	Report  *config.Report
	Log     *slog.Logger
	Metrics *metrics.Registry
	Clock   clock.Clock
	Roots   *tlsutil.Roots       // nil without [mcias] ca_cert
	Cert    *tlsutil.Certificate // nil without listeners or ca_cert
	Hosts   *hostmap.Map         // names of the platform
	Key     *auth.ServiceKey     // nil without [mcias] key_file; the file itself may come later
	Health  *health.Set          // add the service's checks; one marked Duty is its first duty

	// Server is what will be served. Rules, addresses, certificate, proxies and socket are filled in from the
	// configuration; Build sets Register, REST and, where it has them, Routes, Pages, OpenAPI, Sealed, Audit, Extra, Peer.
	// A Verifier set here (MCIAS has its own source) replaces the one that watches MCIAS; it is started and stopped too.
	Server grpcserver.Config

	sec      sections
	migs     fs.FS
	steps    map[int]db.Step
	mcias    *grpc.ClientConn
	before   []run.Component
	after    []run.Component
	reload   []func(ctx context.Context, cfg any) error
	probe    func(ctx context.Context) error
	database *db.DB
}

// Before adds parts that start before the listeners and stop after them: databases, caches, workers the API needs.
// When Build fails, those that have only a Stop (opened already) are stopped again.
func (b *Builder) Before(parts ...run.Component) { b.before = append(b.before, parts...) }

// After adds parts that start after the listeners and stop before them.
func (b *Builder) After(parts ...run.Component) { b.after = append(b.after, parts...) }

// Probe sets the write probe made before the service says READY; a failure makes it "ready, degraded".
// OpenDB sets one.
func (b *Builder) Probe(fn func(ctx context.Context) error) { b.probe = fn }

// OnReload is called with the new settings after SIGHUP, when they were right. Only settings tagged reload differ.
func OnReload[T any](b *Builder, fn func(ctx context.Context, cfg T) error) {
	b.reload = append(b.reload, func(ctx context.Context, cfg any) error { return fn(ctx, cfg.(T)) })
}

// OpenDB opens the database of [database] with the service's migrations, checks it in health, probes it before READY
// and closes it when the service stops.
func (b *Builder) OpenDB(ctx context.Context) (*db.DB, error) {
	if b.sec.database == nil || b.migs == nil {
		return nil, errors.New("the service has no [database] section or no migrations")
	}
	if b.database != nil {
		return b.database, nil
	}
	cfg := db.Config{Path: b.sec.database.Path, Service: b.Service, Migrations: b.migs, Steps: b.steps,
		Readers: b.sec.database.Readers, Version: b.Version, Log: b.Log, Metrics: b.Metrics, Clock: b.Clock}
	if b.sec.database.Synchronous == "normal" {
		cfg.Synchronous = db.Normal
	}
	d, err := db.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.database = d
	b.Before(run.Component{Name: "database", Stop: func(context.Context) error { return d.Close() }})
	b.Health.Add(databaseCheck(d))
	if b.probe == nil {
		b.probe = func(ctx context.Context) error { return d.Write(ctx, func(*db.Tx) error { return nil }) }
	}
	return d, nil
}

// MCIAS returns the connection to MCIAS. It connects at its first call; MCIAS may be away.
func (b *Builder) MCIAS() (*grpc.ClientConn, error) {
	if b.mcias != nil {
		return b.mcias, nil
	}
	if b.sec.mcias == nil || b.sec.mcias.GRPC() == "" || b.Roots == nil {
		return nil, fault.New(fault.Invalid, "[mcias] server_url and ca_cert are needed")
	}
	conn, err := auth.Dial(auth.DialConfig{Target: b.sec.mcias.GRPC(), Hosts: b.Hosts, Roots: b.Roots})
	if err != nil {
		return nil, err
	}
	b.mcias = conn
	return conn, nil
}

// Dial returns a connection to another service under this service's own account: target is host:port, audience the
// peer's name. It never fails because the peer is away. It is closed when the service stops.
func (b *Builder) Dial(target, audience string) (*grpc.ClientConn, error) {
	mcias, err := b.MCIAS()
	if err != nil {
		return nil, err
	}
	if b.Key == nil {
		return nil, fault.New(fault.Invalid, "[mcias] key_file is needed to speak to %s", audience)
	}
	conn, err := auth.Dial(auth.DialConfig{Target: target, Hosts: b.Hosts, Roots: b.Roots, Creds: auth.Tokens(b.Key, mcias, audience)})
	if err != nil {
		return nil, err
	}
	b.Before(run.Component{Name: "connection to " + audience, Stop: func(context.Context) error { return conn.Close() }})
	return conn, nil
}

// Pages makes the service's pages of cfg: name, issuer, navigation and log are filled in, and people sign in at MCIAS.
// It sets Server.Pages and returns the identity, for pages that show the session.
func (b *Builder) Pages(cfg web.Config) (*web.Login, error) {
	conn, err := b.MCIAS()
	if err != nil {
		return nil, err
	}
	if b.Key == nil {
		return nil, fault.New(fault.Invalid, "[mcias] key_file is needed for pages: it holds the OIDC client").WithReason("BAD_CONFIG")
	}
	login, err := web.NewLogin(web.LoginConfig{Service: b.Service, Issuer: b.sec.mcias.ServerURL, Key: b.Key, MCIAS: conn,
		Transport: b.Roots.Transport(b.Hosts.DialContext), Log: b.Log, Clock: b.Clock})
	if err != nil {
		return nil, err
	}
	cfg.Identity = login
	return login, b.Site(cfg)
}

// Site makes the pages of cfg with the identity it brings: for MCIAS.
func (b *Builder) Site(cfg web.Config) error {
	cfg.Service, cfg.Log, cfg.Clock = b.Service, b.Log, b.Clock
	if cfg.Issuer == "" && b.sec.mcias != nil {
		cfg.Issuer = b.sec.mcias.ServerURL
	}
	if b.sec.web != nil && cfg.Nav == nil {
		for _, entry := range b.sec.web.Nav {
			name, to, ok := strings.Cut(entry, "=")
			if u, err := url.Parse(to); !ok || err != nil || u.Scheme != "https" {
				return fault.Field1("web.nav", "%q is not name=https://…", entry)
			}
			cfg.Nav = append(cfg.Nav, web.Link{Name: name, URL: to})
		}
	}
	site, err := web.New(cfg)
	if err != nil {
		return err
	}
	b.Server.Pages = site
	return nil
}

// Issuer returns MCIAS's URL, "" without one.
func (b *Builder) Issuer() string {
	if b.sec.mcias == nil {
		return ""
	}
	return b.sec.mcias.ServerURL
}

// abandon stops what Build handed over before it failed.
func (b *Builder) abandon() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var errs []error
	for _, c := range slices.Backward(b.before) {
		if c.Stop != nil && c.Start == nil {
			errs = append(errs, c.Stop(ctx))
		}
	}
	if b.mcias != nil {
		errs = append(errs, b.mcias.Close())
	}
	return errors.Join(errs...)
}
