package cli

import (
	"context"
	"log/slog"

	"github.com/go-chi/chi/v5"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/audit"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/metrics"
	"metacircular.net/mcdsl/run"
	"metacircular.net/mcdsl/tlsutil"
)

// RESTFunc registers a service's generated REST handlers: the RegisterXHandler functions of grpc-gateway.
type RESTFunc = func(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error

// Builder is what Build gets: the parts that are there, and methods that take the service's own. It belongs to the
// start of the server.
type Builder struct {
	Service string
	Version string
	Dir     string // the service's folder: that of its configuration file
	Report  *config.Report
	Log     *slog.Logger
	Metrics *metrics.Registry
	Clock   clock.Clock
	Roots   *tlsutil.Roots   // nil without [mcias] ca_cert
	Hosts   *hostmap.Map     // names of the platform
	Key     *auth.ServiceKey // nil without [mcias] key_file

	register []func(grpc.ServiceRegistrar)
	rest     []RESTFunc
	routes   []func(chi.Router)
	before   []run.Component
	after    []run.Component
	reload   []func(ctx context.Context, cfg any) error
	source   auth.Source
	sink     audit.Sink
	sealed   func() bool
	alive    []func() error
	ready    []func() error
	probe    func(ctx context.Context) error
	peer     func(uid uint32) (auth.Caller, bool)
}

// Register adds gRPC services; they are served over TLS, on the Unix socket and to the gateway alike.
func (b *Builder) Register(fns ...func(grpc.ServiceRegistrar)) {
	b.register = append(b.register, fns...)
}

// REST adds the generated REST handlers of the contract.
func (b *Builder) REST(fns ...RESTFunc) { b.rest = append(b.rest, fns...) }

// Routes adds hand-written HTTP routes; each needs its rule "HTTP <METHOD> <pattern>".
func (b *Builder) Routes(fns ...func(chi.Router)) { b.routes = append(b.routes, fns...) }

// Before adds parts that start before the listeners and stop after them: databases, caches, workers the API needs.
func (b *Builder) Before(parts ...run.Component) { b.before = append(b.before, parts...) }

// After adds parts that start after the listeners and stop before them.
func (b *Builder) After(parts ...run.Component) { b.after = append(b.after, parts...) }

// Source replaces the network as source of keys and revocations: for MCIAS itself.
func (b *Builder) Source(s auth.Source) { b.source = s }

// Audit replaces the log as sink of audit records.
func (b *Builder) Audit(s audit.Sink) { b.sink = s }

// Sealed tells the sealed gate; methods whose rule says Unsealed are refused while it is true.
func (b *Builder) Sealed(fn func() bool) { b.sealed = fn }

// Alive adds a condition of life: /healthz and the watchdog. Only the first duty belongs here, never a peer.
func (b *Builder) Alive(fn func() error) { b.alive = append(b.alive, fn) }

// Ready adds a condition of readiness: /readyz.
func (b *Builder) Ready(fn func() error) { b.ready = append(b.ready, fn) }

// Probe sets the write probe made before the service says READY; a failure makes it "ready, degraded".
func (b *Builder) Probe(fn func(ctx context.Context) error) { b.probe = fn }

// Peer admits further users to the Unix socket.
func (b *Builder) Peer(fn func(uid uint32) (auth.Caller, bool)) { b.peer = fn }

// OnReload is called with the new settings after SIGHUP, when they were right. Only settings tagged reload differ.
func OnReload[T any](b *Builder, fn func(ctx context.Context, cfg T) error) {
	b.reload = append(b.reload, func(ctx context.Context, cfg any) error { return fn(ctx, cfg.(T)) })
}
