package httpserver

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/metrics"
)

// edge is the outermost handler: every request passes it first and is logged by it.
type edge struct {
	conf  Config
	hosts map[string]bool
	log   *slog.Logger
	next  http.Handler
}

type connKey struct{}

// connInfo is what is known about a connection before its first request.
type connInfo struct {
	caller auth.Caller // somebody on the Unix socket
	proxy  func() bool
}

func (e *edge) connContext(ctx context.Context, c net.Conn) context.Context {
	info := &connInfo{proxy: func() bool { return viaProxy(c) }}
	if l, ok := c.(interface{ LocalCaller() auth.Caller }); ok {
		info.caller = l.LocalCaller()
	}
	return context.WithValue(ctx, connKey{}, info)
}

var requestIDForm = regexp.MustCompile(`^[0-9A-Za-z-]{8,64}$`)

// NewRequestID returns a fresh request id.
func NewRequestID() string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ServeHTTP sets the request up, passes it on, and writes its one line.
func (e *edge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	info, _ := r.Context().Value(connKey{}).(*connInfo)
	if info == nil {
		info = &connInfo{proxy: func() bool { return false }}
	}
	call := &auth.Call{Origin: auth.Origin{Transport: auth.OverTLS}, Caller: info.caller}
	if info.caller.Known() {
		call.Transport = auth.OverUnix
	} else if ap, err := net.ResolveTCPAddr("tcp", r.RemoteAddr); err == nil {
		call.Client = AddrOf(ap)
	}
	if id := r.Header.Get("X-Request-Id"); id != "" && requestIDForm.MatchString(id) && info.proxy() {
		call.Origin.RequestID = id
	} else {
		call.Origin.RequestID = NewRequestID()
	}
	ctx := log.WithRequestID(auth.Enter(r.Context(), call), call.Origin.RequestID)
	rec := &recorder{ResponseWriter: w}
	route := new(string)
	r = r.WithContext(context.WithValue(ctx, routeKey{}, route))
	rec.Header().Set("X-Request-Id", call.Origin.RequestID)

	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler { //nolint:errorlint // the very value, as net/http compares it
				panic(p)
			}
			e.conf.Metrics.Panic(known(*route))
			e.log.ErrorContext(ctx, "panic", "method", r.Method+" "+*route, "panic", p, "stack", string(debug.Stack()))
			if !rec.began() {
				WriteError(rec, r, fault.New(fault.Internal, "panic"))
			}
		}
		code := rec.code()
		e.conf.Metrics.HTTP(known(*route), strconv.Itoa(code))
		level := slog.LevelInfo
		if quiet(r.URL.Path) {
			level = slog.LevelDebug
		}
		e.log.LogAttrs(ctx, level, log.Request, slog.String("method", r.Method+" "+shown(*route, r)), slog.Int("code", code),
			log.Dur(time.Since(start)), slog.String("user", userOf(call)), slog.String("client", clientOf(call)))
	}()

	if !e.ours(r) {
		WriteError(rec, r, WithStatus(http.StatusMisdirectedRequest,
			fault.New(fault.Invalid, "this server does not answer for that host name").WithReason("WRONG_HOST")))
		return
	}
	e.next.ServeHTTP(rec, r)
}

// ours reports whether the Host is one of our names. Health is asked by address, and the socket has no names.
func (e *edge) ours(r *http.Request) bool {
	if len(e.hosts) == 0 || r.TLS == nil || r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return e.hosts[strings.ToLower(strings.TrimSuffix(host, "."))]
}

type routeKey struct{}

// SetRoute tells the edge which route a request took, for its log line and metric.
func SetRoute(ctx context.Context, pattern string) {
	if p, ok := ctx.Value(routeKey{}).(*string); ok {
		*p = pattern
	}
}

func known(route string) string {
	if route == "" {
		return metrics.Other
	}
	return route
}

// shown is the route, or the path of a request that took none, without its query.
func shown(route string, r *http.Request) string {
	if route != "" {
		return route
	}
	if p := r.URL.Path; len(p) > 128 {
		return p[:128] + "…"
	}
	return r.URL.Path
}

func quiet(path string) bool { return path == "/healthz" || path == "/readyz" }

func userOf(c *auth.Call) string {
	if !c.Caller.Known() {
		return c.User
	}
	return c.Caller.String()
}

func clientOf(c *auth.Call) string {
	if c.Client.IsValid() {
		return c.Client.String()
	}
	return string(c.Transport)
}

// recorder remembers the status. It unwraps, so that ResponseController reaches the connection.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(code int) {
	if r.status == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		r.status = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Flush sends what is buffered: http.Flusher for those who ask for it by type.
func (r *recorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) began() bool { return r.status != 0 }

func (r *recorder) code() int {
	if r.status == 0 {
		return http.StatusOK
	}
	return r.status
}
