package grpcserver

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/audit"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/metrics"
)

// Config says what a server serves and to whom. Service, Rules and Register are needed; each transport is
// served if its address is set, and the in-process one always is.
type Config struct {
	Service  string                      // "mcns": domain of errors, label of logs
	Rules    auth.Map                    // one rule per method and hand-written route; health, status, reflection and debug bring their own
	Verifier *auth.Verifier              // nil only for a server without tokens: then nobody but Public and the socket gets in
	Register func(grpc.ServiceRegistrar) // registers the implementations; called once per transport

	REST        []gateway.Register // generated REST handlers, served under /v1/
	Routes      func(r chi.Router) // hand-written HTTP routes: explicit methods, each with a rule "HTTP GET /pattern"
	RefuseRoute RefuseFunc         // writes a refusal on hand-written routes; nil = the JSON of the gateway
	Pages       Pages              // the service's pages; nil = none
	OpenAPI     []byte             // served at /openapi.json; nil = not

	HTTPAddr       string // HTTPS for REST and pages, "127.0.0.1:8443"; empty = not served
	GRPCAddr       string // gRPC over TLS, "127.0.0.1:9443"; empty = not served
	Socket         string // Unix socket for gRPC, REST and pages; empty = not served
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	HostNames      []string         // names the HTTPS side answers to; empty = any. Others get 421
	Proxy          httpserver.Proxy // whose PROXY headers count
	MaxBody        int64            // bytes; 0 = 1 MiB

	LocalAdmins []uint32                             // uids that count as root on the socket
	Peer        func(uid uint32) (auth.Caller, bool) // lets further uids onto the socket; nil = none

	Sealed    func() error      // a refusal while the vault is sealed, asked for rules with NeedsUnsealed; nil = never sealed
	Audit     audit.Sink        // nil = the log
	Extra     []Interceptor     // the service's own, innermost
	Health    *health.Set       // nil = an empty one
	Log       *slog.Logger      // nil = silent
	Metrics   *metrics.Registry // nil = none
	Clock     clock.Clock
	Keepalive time.Duration // gRPC pings to idle clients; 0 = 20 s
}

// Interceptor is one of a service's own, run after every check. Either may be nil.
type Interceptor struct {
	Unary  grpc.UnaryServerInterceptor
	Stream grpc.StreamServerInterceptor
}

// RefuseFunc writes the answer to a request that was refused or failed.
type RefuseFunc func(w http.ResponseWriter, r *http.Request, err error)

// Pages is what mcdsl/web gives a server. Page routes stand in the rule map like all others; where a REST call
// shows its bearer header, a page shows the token of its session.
type Pages interface {
	// Mount registers the page routes: explicit methods, each with a rule. conn is the server in process; calls
	// on it with the request's context carry the caller's token, the request id and the client's address.
	Mount(r chi.Router, conn *grpc.ClientConn)
	// Token returns the platform token of the request's session, renewed if need be; "" = no session.
	Token(r *http.Request) (string, error)
	// Refuse answers a page request that was refused or failed: the way to the sign-in, or an error page.
	Refuse(w http.ResponseWriter, r *http.Request, err error)
}
