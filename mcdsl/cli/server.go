package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"metacircular.net/mcdsl/archive"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/metrics"
	"metacircular.net/mcdsl/run"
	"metacircular.net/mcdsl/secret"
	"metacircular.net/mcdsl/tlsutil"
)

func (s *Service[T]) serverCommand(e *Env) *cobra.Command {
	return &cobra.Command{Use: "server", Short: "Run the server", Args: cobra.NoArgs,
		Annotations: map[string]string{ownSignals: "yes"},
		Example:     fmt.Sprintf("  %s server --config /srv/%s/%s.toml", s.Name, s.Name, s.Name),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.serve(cmd.Context(), e)
		}}
}

// serve assembles the server and runs it until a signal. The order is that of mcdsl.md 5.11: configuration, log,
// folder, the service's parts, verifier, rules, listeners, write probe, READY.
func (s *Service[T]) serve(ctx context.Context, e *Env) error {
	cfg, rep, err := s.load(e)
	if err != nil {
		return err
	}
	sec := sectionsOf(&cfg)
	logger, level, err := newLog(s.Name, sec.log, e)
	if err != nil {
		return fault.New(fault.Invalid, "[log]").Wrap(err)
	}
	for _, w := range rep.Warnings {
		logger.Warn("configuration: " + w)
	}
	dir, err := filepath.Abs(filepath.Dir(e.Configured()))
	if err != nil {
		return err
	}
	if err := ownFolder(dir); err != nil {
		return err
	}
	if found, err := archive.Recover(ctx, dir, s.OnRestore); err != nil {
		return fmt.Errorf("finish the restore that was interrupted: %w", err)
	} else if found {
		logger.Info("finished a restore that was interrupted")
	}
	b, err := newBuilder(s.Name, dir, sec, e, logger)
	if err != nil {
		return err
	}
	b.Report, b.migs, b.steps = rep, s.Migrations, s.Steps
	parts, srv, err := s.assemble(ctx, cfg, b)
	if err != nil {
		return errors.Join(explainStart(err), b.abandon())
	}
	logger.Info("starting", "version", Version, "config", e.Configured())
	err = run.Group(ctx, run.Options{Log: logger, Probe: b.probe,
		Reload: func(ctx context.Context) error { return s.reload(ctx, e, b, level) },
		Alive:  func() error { return b.Health.Alive(ctx) },
		Ready: func() {
			b.Health.SetReady(true)
			logger.Info("ready", "addrs", addresses(srv))
			if e.Started != nil {
				e.Started(addresses(srv))
			}
		},
		Stopping: srv.Drain,
	}, parts...)
	if err != nil {
		return explainStart(err)
	}
	logger.Info("stopped")
	return nil
}

func newLog(service string, c *config.Log, e *Env) (*slog.Logger, *slog.LevelVar, error) {
	lc := log.Config{Service: service}
	if e.Err != os.Stderr {
		lc.Out = e.Err
	}
	if c != nil {
		lc.Level, lc.Format = c.Level, c.Format
	}
	return log.New(lc)
}

// ownFolder makes the service's folder, or refuses one that belongs to somebody else.
func ownFolder(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fault.New(fault.Precondition, "make %s", dir).Wrap(err)
		}
		return nil
	}
	if err != nil {
		return fault.New(fault.Precondition, "the service's folder").Wrap(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(st.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return fault.New(fault.Precondition, "%s belongs to uid %d, this runs as %d", dir, st.Uid, os.Geteuid()).
			WithNext("chown -R %d %s, or run as uid %d", os.Geteuid(), dir, st.Uid)
	}
	return nil
}

// newBuilder prepares what is the same in every service.
func newBuilder(name, dir string, sec sections, e *Env, logger *slog.Logger) (*Builder, error) {
	b := &Builder{Service: name, Version: Version, Dir: dir, Log: logger, Metrics: metrics.New(name, Version),
		Clock: clock.Or(e.Clock), Health: health.New(name, Version), sec: sec, Hosts: hostmap.Open("")}
	if root := rootOf(filepath.Join(dir, "x")); root != "" {
		b.Hosts = hostmap.Open(filepath.Join(root, "run", "hosts"))
	}
	b.Server = grpcserver.Config{Service: name, Health: b.Health, Log: logger, Metrics: b.Metrics, Clock: b.Clock}
	var err error
	if m := sec.mcias; m != nil {
		if m.CACert != "" {
			if b.Roots, err = tlsutil.NewRoots(tlsutil.RootsConfig{File: m.CACert, Log: logger}); err != nil {
				return nil, fault.New(fault.Invalid, "[mcias] ca_cert").Wrap(err)
			}
		}
		if m.KeyFile != "" {
			b.Key = auth.OpenServiceKey(m.KeyFile, m.ServerURL)
		}
		if m.ServiceName != "" {
			name = m.ServiceName
		}
	}
	if sec.server == nil {
		return b, nil
	}
	return b, b.fillServer(*sec.server)
}

// fillServer takes over [server].
func (b *Builder) fillServer(c config.Server) error {
	s := &b.Server
	s.HTTPAddr, s.GRPCAddr, s.Socket, s.MaxBody = c.ListenAddr, c.GRPCAddr, c.Socket, c.MaxBody.Bytes()
	s.Proxy = httpserver.Proxy{Trusted: c.Proxies()}
	if c.ProxyKeyFile != "" {
		key, err := secret.ReadFile(c.ProxyKeyFile)
		if err != nil {
			return fault.New(fault.Invalid, "[server] proxy_key_file").Wrap(err)
		}
		if s.Proxy.Key, err = hopKey(key); err != nil {
			return fault.New(fault.Invalid, "[server] proxy_key_file %s", c.ProxyKeyFile).Wrap(err)
		}
	}
	for _, name := range c.LocalAdmins {
		uid, err := uidOf(name)
		if err != nil {
			return fault.Field1("server.local_admins", "%q is neither a user of this machine nor a uid", name)
		}
		s.LocalAdmins = append(s.LocalAdmins, uid)
	}
	if c.ListenAddr == "" && c.GRPCAddr == "" {
		return nil
	}
	if b.Roots == nil {
		return fault.New(fault.Invalid, "[mcias] ca_cert is needed with listeners: the certificate's chain is checked against it").
			WithReason("BAD_CONFIG")
	}
	var err error
	b.Cert, err = tlsutil.NewCertificate(tlsutil.Config{CertFile: c.TLSCert, KeyFile: c.TLSKey, Roots: b.Roots, Clock: b.Clock, Log: b.Log,
		OnChange: func(st tlsutil.Status) {
			if st.Problem != "" {
				b.Metrics.ReloadFailed("tls")
			}
		}})
	if err != nil {
		return fault.New(fault.Invalid, "[server]").Wrap(err)
	}
	b.Metrics.Gauge("mc_tls_not_after_seconds", "When the certificate ends, Unix seconds.", map[string]string{"use": "server"},
		func() float64 { return float64(b.Cert.Status().NotAfter.Unix()) })
	s.GetCertificate = b.Cert.GetCertificate
	if len(c.HostNames) > 0 {
		s.HostNames = append(slices.Clone(c.HostNames), b.Cert.Status().Names...)
	}
	return nil
}

// hopKey reads a key of 32 bytes, raw or as 64 hex digits.
func hopKey(v secret.Value) ([]byte, error) {
	raw := v.Reveal()
	if len(raw) == httpserver.HopKeySize {
		return raw, nil
	}
	text := strings.TrimSpace(string(raw))
	if len(text) != 2*httpserver.HopKeySize {
		return nil, fmt.Errorf("holds %d bytes, want %d, or %d hex digits", len(raw), httpserver.HopKeySize, 2*httpserver.HopKeySize)
	}
	out := make([]byte, httpserver.HopKeySize)
	for i := range out {
		n, err := strconv.ParseUint(text[2*i:2*i+2], 16, 8)
		if err != nil {
			return nil, errors.New("is not hex")
		}
		out[i] = byte(n)
	}
	return out, nil
}

func uidOf(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}

// assemble lets the service build its parts and puts everything into the order of starting.
func (s *Service[T]) assemble(ctx context.Context, cfg T, b *Builder) ([]run.Component, *grpcserver.Server, error) {
	b.Health.Add(filesCheck(b.Dir), diskCheck(b.Dir))
	if b.Cert != nil {
		b.Health.Add(certificateCheck(b.Cert, b.Clock))
	}
	b.Server.Rules = s.Rules
	if s.Build != nil {
		if err := s.Build(ctx, cfg, b); err != nil {
			return nil, nil, err
		}
	}
	if s.Checks != nil {
		b.Health.Add(s.Checks(cfg)...)
	}
	if p, ok := b.Server.Pages.(interface{ Rules() auth.Map }); ok {
		merged, err := auth.Merge(b.Server.Rules, p.Rules())
		if err != nil {
			return nil, nil, err
		}
		b.Server.Rules = merged
	}
	if b.Server.Register == nil {
		b.Server.Register = noRegister
	}
	if err := b.verifier(); err != nil {
		return nil, nil, err
	}
	var srv *grpcserver.Server
	b.Health.Add(listenCheck(func() []string { return addresses(srv) }))
	var snapshots []run.Component
	if b.sec.backup != nil && b.sec.database != nil && b.sec.backup.Every > 0 {
		snapshots = append(snapshots, s.snapshotter(cfg, b))
		b.Health.Add(snapshotCheck(b.Dir, b.Service, b.sec.backup.Every.D(), b.Clock, b.Clock.Now()))
	}
	srv, err := grpcserver.New(b.Server)
	if err != nil {
		return nil, nil, err
	}
	return b.order(srv, snapshots), srv, nil
}

// verifier makes the one that watches MCIAS, unless Build brought its own.
func (b *Builder) verifier() error {
	if b.Server.Verifier == nil && b.sec.mcias != nil && b.sec.mcias.ServerURL != "" {
		if b.Key == nil {
			return fault.New(fault.Invalid, "[mcias] key_file is needed with server_url: it proves this service to mcias").WithReason("BAD_CONFIG")
		}
		conn, err := b.MCIAS()
		if err != nil {
			return err
		}
		state := filepath.Join(b.Dir, stateFolder)
		if err := os.MkdirAll(state, 0o750); err != nil {
			return fault.New(fault.Precondition, "make %s", state).Wrap(err)
		}
		ac := auth.Config{Service: b.sec.mcias.ServiceName, Issuer: b.sec.mcias.ServerURL,
			Source: auth.Watch(conn, b.Key, auth.WatchLog(b.Log)), StateFile: filepath.Join(state, "state.json"),
			Clock: b.Clock, Log: b.Log, Metrics: b.Metrics}
		if b.sec.auth != nil {
			ac.NormalBudget, ac.PrivilegedBudget = b.sec.auth.NormalBudget.D(), b.sec.auth.PrivilegedBudget.D()
		}
		if b.Server.Verifier, err = auth.New(ac); err != nil {
			return err
		}
	}
	if b.Server.Verifier != nil {
		b.Health.Add(mciasCheck(b.Server.Verifier))
	}
	return nil
}

// stateFolder holds the verifier's state; it is rewritten from MCIAS and never part of a snapshot.
const stateFolder = "auth"

// order is the order of starting.
func (b *Builder) order(srv *grpcserver.Server, extra []run.Component) []run.Component {
	var parts []run.Component
	if b.Cert != nil {
		parts = append(parts, run.Background("certificate", b.Cert.Watch))
	}
	if b.mcias != nil {
		parts = append(parts, run.Component{Name: "connection to mcias", Stop: func(context.Context) error { return b.mcias.Close() }})
	}
	parts = append(parts, b.before...)
	if v := b.Server.Verifier; v != nil {
		parts = append(parts, run.Component{Name: "verifier", Start: v.Start, Stop: v.Stop})
	}
	if b.sec.metrics != nil && b.sec.metrics.Addr != "" {
		parts = append(parts, metricsServer(b.sec.metrics.Addr, b.Metrics.Handler()))
	}
	parts = append(parts, run.Component{Name: "server", Start: srv.Start, Stop: srv.Stop})
	return append(append(parts, b.after...), extra...)
}

func metricsServer(addr string, h http.Handler) run.Component {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: httpserver.HeaderTime, WriteTimeout: 30 * time.Second}
	return run.Component{Name: "metrics",
		Start: func(ctx context.Context) error {
			ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
			if err != nil {
				return fmt.Errorf("listen on %s: %w", addr, err)
			}
			go func() {
				if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
					run.Fail(ctx, fmt.Errorf("metrics: %w", err))
				}
			}()
			return nil
		},
		Stop: srv.Shutdown}
}

// addresses lists where the server is reached.
func addresses(s *grpcserver.Server) []string {
	if s == nil {
		return nil
	}
	var out []string
	for _, a := range []string{s.HTTPAddr(), s.GRPCAddr(), s.SocketPath()} {
		if a != "" {
			out = append(out, a)
		}
	}
	return out
}

// reload takes over changed settings that may change, names the others, and reads certificate and roots anew.
func (s *Service[T]) reload(ctx context.Context, e *Env, b *Builder, level *slog.LevelVar) error {
	var errs []error
	if b.Roots != nil {
		errs = append(errs, b.Roots.Reload())
	}
	if b.Cert != nil {
		if err := b.Cert.Reload(ctx); err != nil && !errors.Is(err, tlsutil.ErrAbsent) {
			errs = append(errs, err)
		}
	}
	cfg, rep, err := s.load(e)
	if err != nil {
		b.Metrics.ReloadFailed("config")
		return errors.Join(append(errs, fmt.Errorf("configuration: %w", err))...)
	}
	now, restart := config.Changes(b.Report, rep)
	if len(restart) > 0 {
		b.Log.Warn("these settings change at the next start only", "keys", restart)
	}
	if sec := sectionsOf(&cfg); sec.log != nil {
		if l, err := log.ParseLevel(sec.log.Level); err == nil {
			level.Set(l)
		}
	}
	for _, fn := range b.reload {
		if err := fn(ctx, cfg); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.Report = rep
	b.Log.Info("settings taken over", "keys", now)
	return nil
}

// explainStart gives the common reasons for not starting their sentence and next step.
func explainStart(err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.New(fault.Conflict, "%s", plain(err)).WithReason("PORT_TAKEN").WithNext("ss -ltnp shows who holds the port; or change [server] listen_addr, grpc_addr")
	case errors.Is(err, syscall.EACCES) && strings.Contains(err.Error(), "bind"):
		return fault.New(fault.Precondition, "%s", plain(err)).WithNext("choose a port from 1024 up, or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE")
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fault.New(fault.Precondition, "%s", plain(err)).WithNext("make the folder writable for uid %d", os.Geteuid())
	case errors.Is(err, syscall.ENOSPC):
		return fault.New(fault.Exhausted, "%s", plain(err)).WithNext("free some space; df -h shows where")
	}
	return err
}

func plain(err error) string {
	s := err.Error()
	for _, p := range []string{"listen tcp ", "listen unix "} {
		s = strings.Replace(s, p, "", 1)
	}
	return s
}
