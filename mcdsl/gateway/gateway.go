package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/httpserver"
)

// Mux is what generated REST handlers register on, under a name that needs no import of the gateway itself.
type Mux = runtime.ServeMux

// Register is a generated function of a service: mcnsv1.RegisterZoneServiceHandler. It serves REST by calling
// the connection, so that every interceptor runs. The generated RegisterXHandlerServer skips them and does not
// fit this type.
type Register func(ctx context.Context, mux *runtime.ServeMux, conn *grpc.ClientConn) error

// bodyTime is how long a client may take to send its body.
const bodyTime = 30 * time.Second

// New returns the handler of the REST routes. conn is the server's in-process connection; ctx ends what the
// registration starts. Bodies are limited by whoever serves the handler.
func New(ctx context.Context, conn *grpc.ClientConn, services ...Register) (http.Handler, error) {
	json := &runtime.JSONPb{
		MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true},
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
	}
	none := func(string) (string, bool) { return "", false }
	g := &handler{}
	g.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, json),
		runtime.WithDisableHTTPMethodOverride(), // a form POST could execute DELETE
		runtime.WithDisablePathLengthFallback(), // a form POST could run a GET handler
		runtime.WithIncomingHeaderMatcher(none), // no cookie, nothing forged; the runtime forwards Authorization itself
		runtime.WithOutgoingHeaderMatcher(none),
		runtime.WithOutgoingTrailerMatcher(none),
		runtime.WithErrorHandler(g.failed),
		runtime.WithRoutingErrorHandler(g.unrouted),
		runtime.WithMiddlewares(probing),
	)
	for _, register := range services {
		if err := register(ctx, g.mux, conn); err != nil {
			return nil, fmt.Errorf("register REST: %w", err)
		}
	}
	return g, nil
}

type handler struct{ mux *runtime.ServeMux }

// ServeHTTP refuses what the runtime would take, then lets it work.
func (g *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, err := auth.Bearer(r.Header.Values("Authorization")); err != nil {
		httpserver.WriteError(w, r, err)
		return
	}
	if r.ContentLength != 0 {
		if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/json" || len(r.Header.Values("Content-Type")) != 1 {
			httpserver.WriteError(w, r, httpserver.WithStatus(http.StatusUnsupportedMediaType,
				fault.New(fault.Invalid, "body is not application/json").WithReason("MEDIA_TYPE")))
			return
		}
		// Fails only where there is no connection under the writer: tests.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	}
	r.Header.Del("Grpc-Timeout") // a deadline is the rule's to set
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	g.mux.ServeHTTP(w, r)
}

func (g *handler) failed(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Del("Trailer")
	w.Header().Del("Transfer-Encoding")
	var own *runtime.HTTPStatusError
	if errors.As(err, &own) {
		err = own.Err
	}
	st := status.Convert(err)
	switch {
	case st.Code() == codes.InvalidArgument && strings.Contains(st.Message(), "http: request body too large"):
		err = httpserver.WithStatus(http.StatusRequestEntityTooLarge,
			fault.New(fault.Invalid, "body too long").WithReason("BODY_TOO_LONG"))
	case st.Code() == codes.InvalidArgument && len(st.Details()) == 0: // the runtime's own: JSON that doesn't fit
		err = fault.New(fault.Invalid, "%s", strings.TrimSpace(strings.ReplaceAll(st.Message(), "\u00a0", " "))).WithReason("BAD_REQUEST")
	}
	httpserver.WriteError(w, r, err)
}

func (g *handler) unrouted(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	if r.Context().Value(probeKey{}) != nil {
		return
	}
	switch code {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", strings.Join(g.allowed(r), ", "))
		httpserver.WriteError(w, r, httpserver.WithStatus(code,
			fault.New(fault.Invalid, "%s does not fit this resource", r.Method).WithReason("METHOD")))
	case http.StatusNotFound:
		httpserver.WriteError(w, r, fault.New(fault.NotFound, "no such resource").WithReason("NO_ROUTE").WithNext("GET /openapi.json"))
	default:
		httpserver.WriteError(w, r, fault.New(fault.Invalid, "malformed path").WithReason("BAD_REQUEST"))
	}
}

// allowed asks the mux itself which methods a path has: a probing request stops at the matched handler.
func (g *handler) allowed(r *http.Request) []string {
	var out []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if m == r.Method {
			continue
		}
		hit := false
		probe := r.Clone(context.WithValue(r.Context(), probeKey{}, &hit))
		probe.Method, probe.Body, probe.ContentLength = m, http.NoBody, 0
		g.mux.ServeHTTP(discard{}, probe)
		if hit {
			out = append(out, m)
		}
	}
	return out
}

type probeKey struct{}

func probing(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
		if hit, ok := r.Context().Value(probeKey{}).(*bool); ok {
			*hit = true
			return
		}
		next(w, r, params)
	}
}

// discard is where a probe's answer goes.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return io.Discard.Write(b) }
func (discard) WriteHeader(int)             {}
