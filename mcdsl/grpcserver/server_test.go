package grpcserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/audit"
	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/health"
	"metacircular.net/mcdsl/mctest"
)

const host = "sample.mc.localhost"

// sample implements two services of a real contract.
type sample struct {
	mciasv1.UnimplementedKeyServer
	mciasv1.UnimplementedWatchServer
	opened chan struct{}
	client chan string
}

func (s *sample) List(ctx context.Context, _ *mciasv1.KeyListRequest) (*mciasv1.KeyListResponse, error) {
	select {
	case s.client <- auth.Client(ctx).String() + " " + auth.From(ctx).String():
	default:
	}
	return &mciasv1.KeyListResponse{Keys: []*mciasv1.SigningKey{{Kid: auth.From(ctx).Name}}}, nil
}

func (s *sample) Rotate(ctx context.Context, r *mciasv1.KeyRotateRequest) (*mciasv1.KeyRotateResponse, error) {
	switch r.GetUse() {
	case "panic":
		panic("secret of the panic")
	case "undecided":
		return &mciasv1.KeyRotateResponse{}, nil
	case "undecided-missing":
		return nil, fault.New(fault.NotFound, "no such key")
	case "sql":
		return nil, io.ErrUnexpectedEOF
	case "bad":
		return nil, fault.Field1("use", "is platform or oidc")
	}
	if err := auth.Decide(ctx, "keys:rotate", r.GetUse(), auth.From(ctx).HasTag("core"), "rule core-only"); err != nil {
		return nil, err
	}
	return &mciasv1.KeyRotateResponse{Active: &mciasv1.SigningKey{Kid: "new"}}, nil
}

func (s *sample) Compromise(context.Context, *mciasv1.KeyCompromiseRequest) (*mciasv1.KeyCompromiseResponse, error) {
	return &mciasv1.KeyCompromiseResponse{}, nil
}

func (s *sample) GetKeys(context.Context, *mciasv1.GetKeysRequest) (*mciasv1.GetKeysResponse, error) {
	return &mciasv1.GetKeysResponse{Issuer: "x"}, nil
}

func (s *sample) ListWatchers(context.Context, *mciasv1.ListWatchersRequest) (*mciasv1.ListWatchersResponse, error) {
	return &mciasv1.ListWatchersResponse{}, nil
}

// Watch is a handler that watches nothing: it sits in Recv.
func (s *sample) Watch(stream grpc.BidiStreamingServer[mciasv1.WatchRequest, mciasv1.WatchResponse]) error {
	if err := stream.Send(&mciasv1.WatchResponse{}); err != nil {
		return err
	}
	select {
	case s.opened <- struct{}{}:
	default:
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

func rules() auth.Map {
	return auth.Map{
		"/mcias.v1.Key/List":           auth.Authenticated(),
		"/mcias.v1.Key/Rotate":         auth.Policy("keys:rotate").Audited(func(req any) string { return req.(*mciasv1.KeyRotateRequest).GetUse() }),
		"/mcias.v1.Key/Compromise":     auth.Roles("admin").Privileged().StepUp(5 * time.Minute).Unsealed(),
		"/mcias.v1.Watch/Watch":        auth.Authenticated(),
		"/mcias.v1.Watch/ListWatchers": auth.Local(),
		"/mcias.v1.Watch/GetKeys":      auth.Public(),
		"HTTP GET /files/{name}":       auth.Policy("files:read").WithScoped(),
		"HTTP PUT /files/{name}":       auth.Roles("admin").Body(8),
		"HTTP GET /open":               auth.Public(),
	}
}

func routes(r chi.Router) {
	r.Get("/open", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "open") })
	r.Route("/files", func(r chi.Router) {
		r.Get("/{name}", func(w http.ResponseWriter, r *http.Request) {
			if chi.URLParam(r, "name") != "undecided" {
				if err := auth.Decide(r.Context(), "files:read", chi.URLParam(r, "name"), auth.From(r.Context()).Name == "alice", "owner only"); err != nil {
					w.WriteHeader(http.StatusForbidden)
					return
				}
			}
			w.Header().Set("X-Leak", "yes")
			_, _ = io.WriteString(w, "content of "+chi.URLParam(r, "name"))
		})
		r.Put("/{name}", func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.ReadAll(r.Body); err != nil {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
		})
	})
}

type records struct {
	mu   sync.Mutex
	all  []audit.Record
	fail bool
}

func (r *records) Begin(context.Context, *audit.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail {
		return fault.New(fault.Exhausted, "audit is full")
	}
	return nil
}

func (r *records) End(_ context.Context, rec *audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, *rec)
}

type world struct {
	ca     *mctest.CA
	idp    *mctest.MCIAS
	srv    *grpcserver.Server
	impl   *sample
	audit  *records
	log    *bytes.Buffer
	client *http.Client
	base   string
	sealed bool
}

func config(w *world) grpcserver.Config {
	return grpcserver.Config{
		Service: "sample", Rules: rules(),
		Register: func(r grpc.ServiceRegistrar) {
			mciasv1.RegisterKeyServer(r, w.impl)
			mciasv1.RegisterWatchServer(r, w.impl)
		},
		REST: []gateway.Register{mciasv1.RegisterKeyHandler, mciasv1.RegisterWatchHandler}, Routes: routes,
		OpenAPI: []byte(`{}`), Audit: w.audit, HostNames: []string{host},
	}
}

func start(t *testing.T, change func(*world, *grpcserver.Config)) *world {
	t.Helper()
	ca := mctest.NewCA(t)
	w := &world{ca: ca, idp: mctest.NewMCIAS(t, ca), impl: &sample{opened: make(chan struct{}, 1), client: make(chan string, 1)}, audit: &records{}, log: &bytes.Buffer{}}
	c := config(w)
	c.Verifier = w.idp.Verifier(t, "sample")
	c.HTTPAddr, c.GRPCAddr, c.Socket = "127.0.0.1:0", "127.0.0.1:0", filepath.Join(t.TempDir(), "s.sock")
	c.GetCertificate = ca.Certificate(t, host)
	c.Log = slog.New(slog.NewJSONHandler(&locked{w: w.log}, nil))
	if change != nil {
		change(w, &c)
	}
	var err error
	if w.srv, err = grpcserver.New(c); err != nil {
		t.Fatal(err)
	}
	if err := w.srv.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.srv.Health().SetReady(true)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.srv.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	_, port, _ := net.SplitHostPort(w.srv.HTTPAddr())
	w.base = "https://" + net.JoinHostPort(host, port)
	tr := ca.Roots(t).Transport(func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", w.srv.HTTPAddr())
	})
	t.Cleanup(tr.CloseIdleConnections)
	w.client = &http.Client{Transport: tr, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return w
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(b []byte) (int, error) { l.mu.Lock(); defer l.mu.Unlock(); return l.w.Write(b) }

func (w *world) conn(t *testing.T) *grpc.ClientConn {
	t.Helper()
	_, port, _ := net.SplitHostPort(w.srv.GRPCAddr())
	c, err := auth.Dial(auth.DialConfig{Target: net.JoinHostPort(host, port), Roots: w.ca.Roots(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) socket(t *testing.T) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix:"+w.srv.SocketPath(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) do(t *testing.T, method, path, token, body string, header ...string) (int, string, http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, w.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		if header[i] == "Content-Type" {
			r.Header.Del("Content-Type")
		}
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := w.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestStartCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(auth.Map)
		want   string
	}{
		{"method without rule", func(m auth.Map) { delete(m, "/mcias.v1.Key/List") }, "method /mcias.v1.Key/List has no rule"},
		{"route without rule", func(m auth.Map) { delete(m, "HTTP PUT /files/{name}") }, "method HTTP PUT /files/{name} has no rule"},
		{"rule without method", func(m auth.Map) { m["/mcias.v1.Key/Liste"] = auth.Public() }, "rule /mcias.v1.Key/Liste has no method"},
		{"rule without route", func(m auth.Map) { m["HTTP GET /nowhere"] = auth.Public() }, "rule HTTP GET /nowhere has no method"},
		{"empty rule", func(m auth.Map) { m["/mcias.v1.Key/List"] = auth.Rule{} }, "admits nobody"},
		{"the server's own row", func(m auth.Map) { m["HTTP GET /healthz"] = auth.Local() }, "ruled twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := config(&world{impl: &sample{}})
			tt.change(c.Rules)
			if _, err := grpcserver.New(c); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want it to name %q", err, tt.want)
			}
		})
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	w := start(t, func(w *world, c *grpcserver.Config) {
		c.Sealed = func() error {
			if w.sealed {
				return fault.New(fault.Unavailable, "sealed").WithReason(auth.ReasonSealed)
			}
			return nil
		}
	})
	keys, watch := mciasv1.NewKeyClient(w.conn(t)), mciasv1.NewWatchClient(w.conn(t))
	as := func(c mctest.Claims) context.Context {
		return auth.WithToken(t.Context(), w.idp.Token(c.For("sample")))
	}
	user, admin := mctest.Human("alice", "user"), mctest.Human("root", "admin")

	if _, err := watch.GetKeys(t.Context(), &mciasv1.GetKeysRequest{}); err != nil {
		t.Errorf("Public: %v", err)
	}
	if _, err := watch.GetKeys(auth.WithToken(t.Context(), "garbage"), &mciasv1.GetKeysRequest{}); err != nil {
		t.Errorf("Public with garbage, which is not looked at: %v", err)
	}
	tests := []struct {
		name   string
		call   func() error
		code   codes.Code
		reason string
	}{
		{"no token", func() error { _, err := keys.List(t.Context(), &mciasv1.KeyListRequest{}); return err }, codes.Unauthenticated, auth.ReasonNoToken},
		{"garbage", func() error {
			_, err := keys.List(auth.WithToken(t.Context(), "x.y.z"), &mciasv1.KeyListRequest{})
			return err
		}, codes.Unauthenticated, auth.ReasonBadToken},
		{"two tokens", func() error {
			_, err := keys.List(auth.WithToken(as(user), "x.y.z"), &mciasv1.KeyListRequest{})
			return err
		}, codes.InvalidArgument, auth.ReasonAmbiguous},
		{"forged metadata", func() error {
			_, err := keys.List(metadata.AppendToOutgoingContext(t.Context(), "mc-local", "0:root:admin", "mc-client-addr", "10.0.0.1"), &mciasv1.KeyListRequest{})
			return err
		}, codes.Unauthenticated, auth.ReasonNoToken},
		{"user", func() error { _, err := keys.List(as(user), &mciasv1.KeyListRequest{}); return err }, codes.OK, ""},
		{"user for admin's", func() error { _, err := keys.Compromise(as(user), &mciasv1.KeyCompromiseRequest{}); return err }, codes.PermissionDenied, "ROLE_REQUIRED"},
		{"admin", func() error { _, err := keys.Compromise(as(admin), &mciasv1.KeyCompromiseRequest{}); return err }, codes.OK, ""},
		{"system with a role", func() error {
			_, err := keys.Compromise(as(mctest.System("x").With("roles", []string{"admin"})), &mciasv1.KeyCompromiseRequest{})
			return err
		}, codes.PermissionDenied, "ROLE_REQUIRED"},
		{"old sign-in", func() error {
			_, err := keys.Compromise(as(admin.SignedIn(time.Now().Add(-6*time.Minute))), &mciasv1.KeyCompromiseRequest{})
			return err
		}, codes.Unauthenticated, auth.ReasonStepUp},
		{"local only", func() error { _, err := watch.ListWatchers(as(admin), &mciasv1.ListWatchersRequest{}); return err }, codes.PermissionDenied, "LOCAL_ONLY"},
		{"policy allows", func() error {
			_, err := keys.Rotate(as(mctest.System("mcp", "core")), &mciasv1.KeyRotateRequest{Use: "oidc"})
			return err
		}, codes.OK, ""},
		{"policy denies", func() error { _, err := keys.Rotate(as(user), &mciasv1.KeyRotateRequest{Use: "oidc"}); return err }, codes.PermissionDenied, auth.ReasonDenied},
		{"no decision", func() error {
			_, err := keys.Rotate(as(user), &mciasv1.KeyRotateRequest{Use: "undecided"})
			return err
		}, codes.Internal, auth.ReasonNoDecision},
		{"not found without a decision", func() error {
			_, err := keys.Rotate(as(user), &mciasv1.KeyRotateRequest{Use: "undecided-missing"})
			return err
		}, codes.Internal, auth.ReasonNoDecision},
		{"bad input before the decision", func() error {
			_, err := keys.Rotate(as(user), &mciasv1.KeyRotateRequest{Use: "bad"})
			return err
		}, codes.InvalidArgument, ""},
		{"panic", func() error {
			_, err := keys.Rotate(as(user), &mciasv1.KeyRotateRequest{Use: "panic"})
			return err
		}, codes.Internal, ""},
		{"internal", func() error { _, err := keys.Rotate(as(user), &mciasv1.KeyRotateRequest{Use: "sql"}); return err }, codes.Internal, ""},
	}
	for _, tt := range tests {
		err := tt.call()
		f := fault.From(err)
		if status.Code(err) != tt.code || f != nil && f.Reason != tt.reason {
			t.Errorf("%s: %v (%+v), want %s %s", tt.name, err, f, tt.code, tt.reason)
		}
		if err != nil && (strings.Contains(err.Error(), "secret of the panic") || strings.Contains(err.Error(), "EOF")) {
			t.Errorf("%s: the cause reached the caller: %v", tt.name, err)
		}
	}
	w.sealed = true
	if _, err := keys.Compromise(as(admin), &mciasv1.KeyCompromiseRequest{}); !fault.HasReason(err, auth.ReasonSealed) {
		t.Errorf("sealed: %v", err)
	}
	w.audit.mu.Lock()
	w.audit.all, w.audit.fail = nil, true
	w.audit.mu.Unlock()
	if _, err := keys.Rotate(as(mctest.System("mcp", "core")), &mciasv1.KeyRotateRequest{Use: "oidc"}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("audit refuses: %v, want the call refused", err)
	}
	w.audit.mu.Lock()
	w.audit.fail = false
	w.audit.mu.Unlock()
	if _, err := keys.Rotate(as(mctest.System("mcp", "core")), &mciasv1.KeyRotateRequest{Use: "oidc"}); err != nil {
		t.Error(err)
	}
	if got := w.audit.all; len(got) != 1 || got[0].Who != "mcp" || got[0].Target != "oidc" || got[0].Outcome != "ok" || got[0].Client != "127.0.0.1" {
		t.Errorf("audit = %+v", got)
	}
	hc, err := grpc_health_v1.NewHealthClient(w.conn(t)).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || hc.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health = %v, %v", hc, err)
	}
}

func TestSocket(t *testing.T) {
	t.Parallel()
	uid := uint32(os.Geteuid())
	for name, admin := range map[string]bool{"admin": true, "own uid": false} {
		if uid == 0 && !admin {
			continue // root is root
		}
		w := start(t, func(_ *world, c *grpcserver.Config) {
			if admin {
				c.LocalAdmins = []uint32{uid}
			}
		})
		want := codes.OK
		if !admin {
			want = codes.PermissionDenied
		}
		_, err := mciasv1.NewWatchClient(w.socket(t)).ListWatchers(t.Context(), &mciasv1.ListWatchersRequest{})
		if status.Code(err) != want {
			t.Errorf("%s: ListWatchers over gRPC = %v, want %s", name, err, want)
		}
		if admin && (len(w.audit.all) != 1 || w.audit.all[0].Kind != "local" || w.audit.all[0].Transport != "unix") {
			t.Errorf("break-glass is not audited: %+v", w.audit.all)
		}
		hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", w.srv.SocketPath())
		}}}
		for path, code := range map[string]int{"/v1/watchers": 200, "/v1/status": 200, "/healthz": 200, "/debug/pprof/": 200} {
			if !admin && (path == "/v1/watchers" || path == "/debug/pprof/") {
				code = 403
			}
			resp, err := hc.Get("http://sample" + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != code {
				t.Errorf("%s: GET %s over the socket = %d, want %d", name, path, resp.StatusCode, code)
			}
		}
		hc.CloseIdleConnections()
		if info, err := os.Stat(w.srv.SocketPath()); err != nil || info.Mode().Perm() != 0o660 {
			t.Errorf("socket: %v, %v", info.Mode(), err)
		}
	}
}

func TestREST(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	user := w.idp.Token(mctest.Human("alice", "user").For("sample"))
	admin := w.idp.Token(mctest.Human("root", "admin").For("sample"))
	old := w.idp.Token(mctest.Human("root", "admin").For("sample").SignedIn(time.Now().Add(-time.Hour)))
	tests := []struct {
		name, method, path, token, body string
		header                          []string
		code                            int
		has                             string
	}{
		{"list", "GET", "/v1/signing-keys", user, "", nil, 200, `"kid":"alice"`},
		{"no token", "GET", "/v1/signing-keys", "", "", nil, 401, auth.ReasonNoToken},
		{"cookie only", "GET", "/v1/signing-keys", "", "", []string{"Cookie", "__Host-sample=x; authorization=" + user}, 401, auth.ReasonNoToken},
		{"two Authorization headers", "GET", "/v1/signing-keys", user, "", []string{"Authorization", "Bearer x"}, 400, auth.ReasonAmbiguous},
		{"forged origin", "GET", "/v1/watchers", user, "", []string{"Grpc-Metadata-mc-local", "0:root:admin", "Mc-Local", "0:root:admin"}, 403, "LOCAL_ONLY"},
		{"role", "POST", "/v1/signing-keys/k/compromise", user, "{}", nil, 403, "ROLE_REQUIRED"},
		{"admin", "POST", "/v1/signing-keys/k/compromise", admin, "{}", nil, 200, "{"},
		{"step-up", "POST", "/v1/signing-keys/k/compromise", old, "{}", nil, 401, auth.ReasonStepUp},
		{"unknown field", "POST", "/v1/signing-keys/rotate", user, `{"usee":"oidc"}`, nil, 400, "usee"},
		{"malformed", "POST", "/v1/signing-keys/rotate", user, `{`, nil, 400, "BAD_REQUEST"},
		{"field of the handler", "POST", "/v1/signing-keys/rotate", user, `{"use":"bad"}`, nil, 400, `"field":"use"`},
		{"policy", "POST", "/v1/signing-keys/rotate", user, `{"use":"oidc"}`, nil, 403, auth.ReasonDenied},
		{"no decision", "POST", "/v1/signing-keys/rotate", user, `{"use":"undecided"}`, nil, 500, "internal"},
		{"form", "POST", "/v1/signing-keys/rotate", user, "use=oidc", []string{"Content-Type", "application/x-www-form-urlencoded", "X-HTTP-Method-Override", "GET"}, 415, "MEDIA_TYPE"},
		{"wrong verb", "DELETE", "/v1/signing-keys", user, "", nil, 405, "METHOD"},
		{"nowhere", "GET", "/v1/nowhere", user, "", nil, 404, "NO_ROUTE"},
		{"too long", "POST", "/v1/signing-keys/rotate", user, `{"use":"` + strings.Repeat("a", 1<<20) + `"}`, nil, 413, "BODY_TOO_LONG"},
		{"foreign host", "GET", "/v1/signing-keys", user, "", []string{"Host", "evil.example"}, 421, "WRONG_HOST"},
		{"status", "GET", "/v1/status", user, "", nil, 200, `"state": "healthy"`},
		{"status, nobody", "GET", "/v1/status", "", "", nil, 401, ""},
		{"debug", "GET", "/debug/", user, "", nil, 403, ""},
		{"pprof", "GET", "/debug/pprof/", admin, "", nil, 403, ""},
		{"healthz", "GET", "/healthz", "", "", []string{"Host", "10.0.0.7"}, 200, "ok"},
		{"readyz", "GET", "/readyz", "", "", nil, 200, "ready"},
		{"openapi", "GET", "/openapi.json", "", "", nil, 200, "{}"},
		{"route", "GET", "/open", "", "", nil, 200, "open"},
		{"HEAD of a route", "HEAD", "/open", "", "", nil, 200, ""},
		{"route, wrong verb", "POST", "/open", "", "{}", nil, 405, "METHOD"},
		{"route, policy", "GET", "/files/a", user, "", nil, 200, "content of a"},
		{"route, denied", "GET", "/files/a", admin, "", nil, 403, ""},
		{"route, no token", "GET", "/files/a", "", "", nil, 401, auth.ReasonNoToken},
		{"route, no decision", "GET", "/files/undecided", user, "", nil, 500, "internal"},
		{"route, body", "PUT", "/files/a", admin, "123456789", nil, 413, ""},
		{"route, role", "PUT", "/files/a", user, "1", nil, 403, "ROLE_REQUIRED"},
	}
	for _, tt := range tests {
		code, body, h := w.do(t, tt.method, tt.path, tt.token, tt.body, tt.header...)
		if code != tt.code || !strings.Contains(body, tt.has) {
			t.Errorf("%s: %d %s, want %d with %q", tt.name, code, body, tt.code, tt.has)
		}
		if code >= 400 && strings.HasPrefix(tt.path, "/v1/") {
			var doc struct {
				Error struct{ Code, Message string } `json:"error"`
			}
			if err := json.Unmarshal([]byte(body), &doc); err != nil || doc.Error.Code == "" || doc.Error.Message == "" {
				t.Errorf("%s: body is not our JSON: %s", tt.name, body)
			}
		}
		switch tt.name {
		case "wrong verb":
			if h.Get("Allow") != "GET" {
				t.Errorf("Allow = %q, want GET", h.Get("Allow"))
			}
		case "step-up":
			if got := h.Get("WWW-Authenticate"); !strings.Contains(got, "insufficient_user_authentication") || !strings.Contains(got, `max_age="300"`) {
				t.Errorf("WWW-Authenticate = %q", got)
			}
		case "route, no decision":
			if h.Get("X-Leak") != "" || strings.Contains(body, "content") {
				t.Error("the undecided answer leaked")
			}
		}
	}
}

func TestStreamsEnd(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	open := func(conn *grpc.ClientConn, ctx context.Context) grpc.BidiStreamingClient[mciasv1.WatchRequest, mciasv1.WatchResponse] {
		s, err := mciasv1.NewWatchClient(conn).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatalf("first message: %v", err)
		}
		<-w.impl.opened
		return s
	}
	token := func(sid string) context.Context {
		return auth.WithToken(t.Context(), w.idp.Token(mctest.Human("alice").For("sample").Session(sid)))
	}
	revoked := open(w.conn(t), token("gone"))
	inproc := open(w.srv.InProcess(), token("gone"))
	stays := open(w.conn(t), token("stays"))
	w.idp.RevokeSession("gone")
	for name, s := range map[string]grpc.BidiStreamingClient[mciasv1.WatchRequest, mciasv1.WatchResponse]{"tls": revoked, "in process": inproc} {
		if _, err := s.Recv(); !fault.HasReason(err, auth.ReasonRevoked) {
			t.Errorf("%s: the stream of a revoked session ended with %v", name, err)
		}
	}
	w.srv.Drain()
	if _, err := stays.Recv(); !fault.HasReason(err, auth.ReasonDraining) {
		t.Errorf("drained stream ended with %v", err)
	}
	if _, err := mciasv1.NewWatchClient(w.conn(t)).GetKeys(t.Context(), &mciasv1.GetKeysRequest{}); !fault.HasReason(err, auth.ReasonDraining) {
		t.Errorf("call while draining: %v", err)
	}
	if code, _, _ := w.do(t, "GET", "/readyz", "", ""); code != 503 {
		t.Errorf("readyz while draining = %d, want 503", code)
	}
}

func TestTLS13Only(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for _, addr := range []string{w.srv.HTTPAddr(), w.srv.GRPCAddr()} {
		c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: host, RootCAs: w.ca.Pool(), MaxVersion: tls.VersionTLS12})
		if err == nil {
			_ = c.Close()
			t.Errorf("%s took TLS 1.2", addr)
		} else if !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("%s: %v, want alert 70", addr, err)
		}
	}
}

func TestHealthDocument(t *testing.T) {
	t.Parallel()
	set := health.New("sample", "1.0")
	set.Add(health.Check{Code: "disk", Title: "disk", Run: func(context.Context) health.Result { return health.Failed("full").Do("make room") }},
		health.Check{Code: "snapshot", Title: "snapshot", DependsOn: []string{"disk"}, Run: func(context.Context) health.Result { return health.Warning("old") }})
	w := start(t, func(_ *world, c *grpcserver.Config) { c.Health = set })
	_, body, _ := w.do(t, "GET", "/v1/status", w.idp.Token(mctest.Human("a").For("sample")), "")
	var r health.Report
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	if r.State != "degraded" || len(r.Findings) != 2 || r.Findings[0].Next != "make room" || !r.Findings[1].Hidden || r.Findings[0].Since == nil {
		t.Errorf("report = %+v", r)
	}
	if code, _, _ := w.do(t, "GET", "/healthz", "", ""); code != 200 {
		t.Errorf("healthz with a full disk = %d, want 200", code)
	}
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	mctest.Matrix(t, config(&world{impl: &sample{}}))
}
