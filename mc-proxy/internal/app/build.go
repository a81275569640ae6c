package app

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/run"
	"metacircular.net/mcdsl/tlsutil"

	mcproxyv1 "metacircular.net/mc-proxy/api/mcproxy/v1"
	"metacircular.net/mc-proxy/internal/accesslog"
	"metacircular.net/mc-proxy/internal/certs"
	"metacircular.net/mc-proxy/internal/control"
	"metacircular.net/mc-proxy/internal/ingress"
	"metacircular.net/mc-proxy/internal/rpc"
	"metacircular.net/mc-proxy/internal/store"
	"metacircular.net/mc-proxy/internal/telemetry"
	"metacircular.net/mc-proxy/internal/traffic"
	"metacircular.net/mc-proxy/internal/upstream"
)

// fallbackFile lies beside the database.
const fallbackFile = "routing.snapshot"

// App is a proxy in one process.
type App struct {
	cfg      Config
	dir      string
	log      *slog.Logger
	now      func() time.Time
	load     func() (Config, error)
	keys     *keys
	roots    *tlsutil.Roots
	db       *db.DB
	dbFault  error
	certs    *certs.Store
	conns    *traffic.Table
	access   *accesslog.Log
	ingress  *ingress.Server
	control  *control.Control
	services *rpc.Services
	state    atomic.Value // string

	mu         sync.Mutex // one reload at a time
	reloadErr  error      // of the last reload
	configFile string
}

// Options are what only the process knows.
type Options struct {
	Load   func() (Config, error) // reads the configuration again
	File   string                 // the configuration, for messages
	Access io.Writer              // of the access log; nil: stderr
}

// Build makes the proxy's parts and hands them to b.
func Build(ctx context.Context, cfg Config, b *cli.Builder, opt Options) error {
	a := &App{cfg: cfg, dir: b.Dir, log: b.Log, now: b.Clock.Now, load: opt.Load, conns: traffic.NewTable(), configFile: opt.File}
	a.state.Store("starting")
	a.keys = &keys{dir: b.Dir, now: a.now, have: map[string]cachedKey{}}
	if err := a.openRoots(); err != nil {
		return err
	}
	if cfg.AccessLog.Enabled {
		out := opt.Access
		if out == nil {
			out = os.Stderr
		}
		a.access = accesslog.New(out)
	}
	table, err := a.openTable(ctx, b)
	if err != nil {
		return err
	}
	metrics := telemetry.New(b.Metrics.Prometheus())
	dialer := upstream.NewDialer()
	a.certs = certs.New(certs.Config{Dir: cfg.TLS.CertDir, Roots: a.pool, Now: a.now, Log: b.Log})
	a.ingress = ingress.New(ingress.Config{Snapshot: a.snapshot, Dialer: dialer, HopKey: a.keys.read, Conns: a.conns, Access: a.access,
		Metrics: metrics, Log: b.Log, Now: a.now})
	env := &upstream.Env{Dial: dialer, Roots: a.pool, HopKey: a.keys.read, Now: a.now}
	a.control, err = control.New(control.Config{DB: a.db, Fallback: a.fallback(), Env: env, Certs: a.certs, Metrics: metrics, Log: b.Log, Now: a.now,
		Listener: a.isTLS, Own: dialer.Own, CheckKey: a.keys.check, ConfigFile: opt.File,
		Connect: cfg.Proxy.ConnectTimeout.D(), ResponseHeader: cfg.Proxy.ResponseTimeout.D(), Drain: cfg.Proxy.DrainTimeout.D()}, table)
	if err != nil {
		return err
	}
	if a.db != nil {
		if err := a.control.Reconcile(ctx, cfg.Specs()); err != nil {
			return err
		}
	}
	a.services = &rpc.Services{Control: a.control, Ingress: a.ingress, Certs: a.certs, Conns: a.conns, Version: b.Version,
		DrainTimeout: cfg.Proxy.DrainTimeout.D(), Now: a.now, Reload: a.Reload, Problems: a.problems,
		State: func() string { s, _ := a.state.Load().(string); return s }}
	a.serve(b)
	a.measure(b)
	cli.OnReload(b, func(ctx context.Context, next Config) error { _, err := a.apply(ctx, next); return err })
	return nil
}

func (a *App) openRoots() error {
	if a.cfg.TLS.Roots == "" {
		return nil
	}
	var err error
	if a.roots, err = tlsutil.NewRoots(tlsutil.RootsConfig{File: a.cfg.TLS.Roots, Log: a.log}); err != nil {
		return fault.New(fault.Invalid, "[tls] roots").Wrap(err)
	}
	return nil
}

// pool returns the roots of the moment; without any a backend that speaks TLS is not believed.
func (a *App) pool() *x509.CertPool {
	if a.roots == nil {
		return x509.NewCertPool()
	}
	return a.roots.Pool()
}

func (a *App) fallback() string {
	return filepath.Join(filepath.Dir(a.cfg.Database.Path), fallbackFile)
}

// openTable loads the routing table: from the database, or, when that is missing or damaged, read-only from the file
// beside it. A proxy with a table to serve serves.
func (a *App) openTable(ctx context.Context, b *cli.Builder) (store.Table, error) {
	fallback, ferr := store.LoadFallback(a.fallback())
	if _, err := os.Stat(a.cfg.Database.Path); errors.Is(err, fs.ErrNotExist) && ferr == nil && len(fallback.Routes) > 0 {
		a.dbFault = fault.New(fault.Precondition, "the database %s is missing, but routing.snapshot is not", a.cfg.Database.Path).
			WithNext("mc-proxy restore FILE, or remove %s to begin anew", a.fallback())
		a.log.Error("serving read-only", "err", a.dbFault)
		return fallback, nil
	}
	d, err := b.OpenDB(ctx)
	if err == nil {
		t, lerr := store.Load(ctx, d)
		if lerr == nil {
			a.db = d
			return t, nil
		}
		err = lerr
	}
	if !fault.HasReason(err, "DAMAGED") || ferr != nil {
		return store.Table{}, err
	}
	a.dbFault = err
	a.log.Error("the database cannot be used: serving the routes of routing.snapshot read-only", "err", err, "generation", fallback.Generation)
	return fallback, nil
}

func (a *App) isTLS(name string) bool {
	l, ok := a.ingress.Listener(name)
	return ok && l.Kind == ingress.TLS
}

// serve hands the parts to b in the order of starting: what serves traffic begins before the socket listens and ends
// after it.
func (a *App) serve(b *cli.Builder) {
	write, read := uids(a.cfg.Admin.Write, agentUID), uids(a.cfg.Admin.Read)
	b.Server.Socket = a.cfg.Server.Socket
	b.Server.Rules = rpc.Rules()
	b.Server.Register = func(r grpc.ServiceRegistrar) { a.services.Register(r) }
	b.Server.REST = rpc.REST()
	b.Server.Extra = []grpcserver.Interceptor{rpc.Decider()}
	b.Server.Peer = func(uid uint32) (auth.Caller, bool) { return peer(uid, write, read) }
	if a.db != nil {
		b.Server.Audit = &auditSink{db: a.db, log: a.log}
	}
	if a.access != nil {
		b.Before(run.Background("access log", a.access.Run))
	}
	b.Before(
		run.Component{Name: "routing table", Stop: func(context.Context) error { a.control.Close(); return a.control.Save() }},
		run.Background("routing.snapshot", a.control.Run),
		run.Background("certificates", a.certs.Watch),
		run.Component{Name: "listeners", Start: a.start, Stop: a.stop},
	)
	if a.roots != nil {
		b.Before(run.Background("roots", a.watchRoots))
	}
	b.Health.Add(a.checks()...)
}

// peer says what a user of this machine may do on the socket. Our own uid may look, for container health checks.
func peer(uid uint32, write, read []uint32) (auth.Caller, bool) {
	switch {
	case slices.Contains(write, uid):
		return auth.LocalPeer(uid, name(uid), rpc.Write, rpc.Read), true
	case slices.Contains(read, uid), int64(uid) == int64(os.Geteuid()):
		return auth.LocalPeer(uid, name(uid), rpc.Read), true
	}
	return auth.Caller{}, false
}

func (a *App) watchRoots(ctx context.Context) error {
	t := time.NewTicker(time.Minute)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := a.roots.Reload(); err != nil {
				a.log.Warn("roots were not reloaded", "err", err)
			}
		}
	}
}

// start binds the listeners.
func (a *App) start(context.Context) error {
	ls, err := a.cfg.listeners(a.keys.read)
	if err != nil {
		return err
	}
	if _, err := a.ingress.Configure(ls, a.cfg.settings()); err != nil {
		return err
	}
	a.state.Store("serving")
	return nil
}

// stop drains and ends the data path.
func (a *App) stop(ctx context.Context) error {
	a.state.Store("draining")
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.ShutdownTimeout.D())
	defer cancel()
	return a.ingress.Shutdown(ctx)
}

// Reload reads the configuration file and takes it over: all of it or nothing.
func (a *App) Reload(ctx context.Context) (changes, restart []string, err error) {
	next, err := a.load()
	if err != nil {
		a.noteReload(err)
		return nil, nil, err
	}
	changes, err = a.apply(ctx, next)
	return changes, needRestart(a.cfg, next), err
}

func (a *App) noteReload(err error) {
	a.mu.Lock()
	a.reloadErr = err
	a.mu.Unlock()
}

// apply takes over a configuration that was found right.
func (a *App) apply(ctx context.Context, next Config) (changes []string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.reloadErr = err }()
	ls, err := next.listeners(a.keys.read)
	if err != nil {
		return nil, err
	}
	if changes, err = a.ingress.Configure(ls, next.settings()); err != nil {
		return nil, err
	}
	if a.db != nil {
		before := a.control.Snapshot().Generation
		if err = a.control.Reconcile(ctx, next.Specs()); err != nil {
			return changes, err
		}
		if a.control.Snapshot().Generation != before {
			changes = append(changes, "routes of the file changed")
		}
	}
	if a.roots != nil {
		if rerr := a.roots.Reload(); rerr != nil {
			a.log.Warn("roots were not reloaded", "err", rerr)
		}
	}
	a.certs.Reload()
	return changes, nil
}

// needRestart names what changed and is read at the start only.
func needRestart(was, is Config) []string {
	var out []string
	add := func(key string, same bool) {
		if !same {
			out = append(out, key)
		}
	}
	add("server.socket", was.Server == is.Server)
	add("database", was.Database == is.Database)
	add("admin", slices.Equal(was.Admin.Write, is.Admin.Write) && slices.Equal(was.Admin.Read, is.Admin.Read))
	add("tls", was.TLS == is.TLS)
	add("access_log", was.AccessLog == is.AccessLog)
	add("proxy.connect_timeout", was.Proxy.ConnectTimeout == is.Proxy.ConnectTimeout)
	add("proxy.response_timeout", was.Proxy.ResponseTimeout == is.Proxy.ResponseTimeout)
	add("proxy.drain_timeout", was.Proxy.DrainTimeout == is.Proxy.DrainTimeout)
	add("proxy.shutdown_timeout", was.Proxy.ShutdownTimeout == is.Proxy.ShutdownTimeout)
	return out
}

// problems are those of the process.
func (a *App) problems() []*mcproxyv1.Problem {
	var out []*mcproxyv1.Problem
	if a.dbFault != nil {
		out = append(out, &mcproxyv1.Problem{Kind: "database", Subject: a.cfg.Database.Path, Detail: a.dbFault.Error(), Next: "mc-proxy doctor"})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.reloadErr != nil {
		out = append(out, &mcproxyv1.Problem{Kind: "config", Subject: a.configFile, Detail: "the last reload changed nothing: " + a.reloadErr.Error(), Next: "mc-proxy config check"})
	}
	return out
}
