package l7

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/table"
	"metacircular.net/mc-proxy/internal/traffic"
	"metacircular.net/mc-proxy/internal/upstream"
)

// errCut is the cause of a request that a drain deadline or an operator ended.
var errCut = errors.New("cut by the proxy")

// task is a request on its way: what its round trip needs, and what it found out.
type task struct {
	front    *Front
	snapshot func() *table.Snapshot
	routeID  int64
	key      string // of the route, for metrics
	reqID    string
	cancel   context.CancelCauseFunc
	work     *upstream.Work
	backend  string
	tunnel   bool
}

type taskKey struct{}

// ServeHTTP takes one request through host check, gate, backend and answer.
func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	conn := ConnOf(r.Context())
	if conn == nil {
		http.Error(w, "no connection", http.StatusInternalServerError)
		return
	}
	conn.Rec.AddRequest()
	snap := f.cfg.Snapshot()
	rec := &recorder{ResponseWriter: w, stall: f.stalls.add(w)}
	defer f.stalls.remove(rec.stall)
	t := &task{front: f, snapshot: f.cfg.Snapshot, reqID: rand.Text()[:16]}
	rt := snap.Host(f.listener, conn.RouteID, r.Host, conn.ALPN)
	if rt == nil {
		// The client reused a connection for a name that belongs elsewhere, or its route is gone: it connects anew.
		w.Header().Set("Connection", "close")
		f.refuse(rec, r, http.StatusMisdirectedRequest, "this name is not served on this connection", 0)
		f.log(r, conn, t, rec, start)
		return
	}
	t.routeID, t.key = rt.ID, rt.Spec.Key.String()
	f.serve(rec, r, t, snap.Live[rt.ID], rt)
	f.log(r, conn, t, rec, start)
}

func (f *Front) serve(rec *recorder, r *http.Request, t *task, live *upstream.Route, rt *route.Route) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	t.cancel = cancel
	if err := live.Gate.Enter(ctx); err != nil {
		f.failed(rec, r.WithContext(context.WithValue(ctx, taskKey{}, t)), err)
		return
	}
	defer live.Gate.Leave()
	defer func() {
		if t.work != nil {
			t.work.Release()
		}
	}()
	if rt.Spec.HSTS > 0 {
		rec.Header().Set("Strict-Transport-Security", "max-age="+strconv.Itoa(int(rt.Spec.HSTS.Seconds())))
	}
	if r.ProtoMajor == 1 {
		// Else the server would read the rest of the body before it writes the answer.
		_ = http.NewResponseController(rec).EnableFullDuplex()
	}
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &stallBody{ReadCloser: r.Body, s: rec.stall}
	}
	f.proxy.ServeHTTP(rec, r.WithContext(context.WithValue(ctx, taskKey{}, t)))
}

// forwarding are the headers by which a client could claim to be someone else.
var forwarding = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Server", "X-Real-Ip", "X-Request-Id"}

// rewrite runs after hop-by-hop headers are gone, so "Connection: X-Forwarded-For" cannot delete what is set here.
func (f *Front) rewrite(pr *httputil.ProxyRequest) {
	conn := ConnOf(pr.In.Context())
	t, _ := pr.In.Context().Value(taskKey{}).(*task)
	pr.Out.URL.Scheme = "http"
	pr.Out.URL.Host = "backend" // the round trip sets both
	pr.Out.Host = pr.In.Host
	for name := range pr.Out.Header {
		if strings.HasPrefix(name, "X-Forwarded-") {
			delete(pr.Out.Header, name)
		}
	}
	for _, name := range forwarding {
		pr.Out.Header.Del(name)
	}
	client := conn.Client.Addr().String()
	if f.cfg.Trusted != nil && f.cfg.Trusted(f.listener, conn.Client.Addr()) {
		if prior := pr.In.Header.Values("X-Forwarded-For"); len(prior) > 0 {
			client = strings.Join(prior, ", ") + ", " + client
		}
	}
	pr.Out.Header.Set("X-Forwarded-For", client)
	pr.Out.Header.Set("X-Forwarded-Proto", "https")
	pr.Out.Header.Set("X-Forwarded-Host", pr.In.Host)
	pr.Out.Header.Set("X-Real-Ip", conn.Client.Addr().String())
	pr.Out.Header.Set("X-Request-Id", t.reqID)
	if _, ok := pr.In.Header["User-Agent"]; !ok {
		pr.Out.Header["User-Agent"] = nil // else the Transport would invent one
	}
	t.tunnel = pr.Out.Header.Get("Upgrade") != ""
}

// failed answers for a request that no backend answered.
func (f *Front) failed(w http.ResponseWriter, r *http.Request, err error) {
	t, _ := r.Context().Value(taskKey{}).(*task)
	cause := context.Cause(r.Context())
	var dial *upstream.DialError
	var netErr net.Error
	switch {
	case errors.Is(cause, errCut):
		f.refuse(w, r, http.StatusServiceUnavailable, "the backend was taken out of service", 1)
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // the client is gone: there is nobody to answer
	case errors.Is(err, upstream.ErrHoldFull), errors.Is(err, upstream.ErrHoldTimeout):
		f.refuse(w, r, http.StatusServiceUnavailable, "the service is being changed; try again in a moment", 1)
	case errors.Is(err, upstream.ErrNoBackend), errors.Is(err, upstream.ErrStale):
		f.refuse(w, r, http.StatusServiceUnavailable, "no backend is up", 1)
	case errors.As(err, &dial):
		f.cfg.Log.Warn("backend unreachable", "route", t.key, "backend", dial.Addr, "err", dial.Err)
		f.refuse(w, r, http.StatusBadGateway, "the backend cannot be reached", 0)
	case errors.As(err, &netErr) && netErr.Timeout():
		f.refuse(w, r, http.StatusGatewayTimeout, "the backend did not answer in time", 0)
	default:
		f.cfg.Log.Warn("backend failed", "route", t.key, "backend", t.backend, "err", err)
		f.refuse(w, r, http.StatusBadGateway, "the backend broke off", 0)
	}
}

// grpcStatus maps the statuses of our own answers to gRPC codes.
var grpcStatus = map[int]string{
	http.StatusServiceUnavailable: "14", http.StatusBadGateway: "14", http.StatusGatewayTimeout: "14", http.StatusMisdirectedRequest: "14",
}

// refuse writes an answer of our own: a gRPC call gets its status as trailers alone, others a line of text.
func (f *Front) refuse(w http.ResponseWriter, r *http.Request, code int, text string, retry int) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if retry > 0 {
		h.Set("Retry-After", strconv.Itoa(retry))
	}
	if upstream.IsGRPC(r) && r.ProtoMajor == 2 && code != http.StatusMisdirectedRequest {
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", grpcStatus[code])
		h.Set("Grpc-Message", text)
		w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(strconv.Itoa(code) + " " + http.StatusText(code) + ": " + text + "\n"))
	}
}

func (f *Front) log(r *http.Request, conn *Conn, t *task, rec *recorder, start time.Time) {
	d := time.Since(start)
	if t.key != "" {
		f.cfg.Metrics.Request(t.key, rec.status(), r.ProtoMajor, d)
	}
	// Without the query: OIDC codes travel there.
	f.cfg.Access.Add(r.Context(), "request", slog.String("route", t.key), slog.String("client", conn.Client.Addr().String()),
		slog.String("proto", r.Proto), slog.String("method", r.Method), slog.String("host", r.Host), slog.String("path", r.URL.Path),
		slog.Int("code", rec.status()), slog.Int64("bytes", rec.bytes), slog.Float64("dur", float64(d.Microseconds())/1000),
		slog.String("backend", t.backend), slog.String("req_id", t.reqID), slog.Uint64("conn", conn.Rec.ID))
	conn.Rec.SetState(traffic.Active)
}
