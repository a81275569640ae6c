package gateway_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/gateway"
)

type keys struct {
	mciasv1.UnimplementedKeyServer
	calls []string
	md    metadata.MD
	left  bool // the client had a deadline of its own
}

func (k *keys) List(ctx context.Context, _ *mciasv1.KeyListRequest) (*mciasv1.KeyListResponse, error) {
	k.calls = append(k.calls, "list")
	k.md, _ = metadata.FromIncomingContext(ctx)
	_, k.left = ctx.Deadline()
	return &mciasv1.KeyListResponse{}, nil
}

func (k *keys) Compromise(_ context.Context, r *mciasv1.KeyCompromiseRequest) (*mciasv1.KeyCompromiseResponse, error) {
	k.calls = append(k.calls, "compromise "+r.GetKid())
	return &mciasv1.KeyCompromiseResponse{}, nil
}

func serve(t testing.TB, k *keys) http.Handler {
	t.Helper()
	pipe := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	mciasv1.RegisterKeyServer(srv, k)
	go func() { _ = srv.Serve(pipe) }()
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("passthrough:///p", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	h, err := gateway.New(t.Context(), conn, mciasv1.RegisterKeyHandler)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestNothingLeaksIn(t *testing.T) {
	t.Parallel()
	k := &keys{}
	h := serve(t, k)
	r := httptest.NewRequest("GET", "/v1/signing-keys", nil)
	for name, value := range map[string]string{"Authorization": "Bearer x", "Cookie": "__Host-mcias=secret", "Grpc-Metadata-Mc-Local": "0:root:admin",
		"Mc-Client-Addr": "10.0.0.1", "Grpc-Timeout": "1H", "X-Forwarded-For": "10.0.0.1", "Referer": "https://x"} {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"keys":[]}` {
		t.Errorf("%d %s, want an empty list", w.Code, w.Body)
	}
	if got := k.md.Get("authorization"); len(got) != 1 || got[0] != "Bearer x" {
		t.Errorf("authorization = %v", got)
	}
	for name, values := range k.md {
		if strings.HasPrefix(name, "mc-") || strings.Contains(name, "cookie") || strings.Contains(name, "referer") {
			t.Errorf("metadata %s = %v came through", name, values)
		}
	}
	if k.left {
		t.Error("the client's deadline was obeyed")
	}
}

func TestMethodOverride(t *testing.T) {
	t.Parallel()
	k := &keys{}
	h := serve(t, k)
	for _, path := range []string{"/v1/signing-keys", "/v1/signing-keys/k/compromise"} {
		for _, ct := range []string{"application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "", "application/json, text/plain"} {
			r := httptest.NewRequest("POST", path, strings.NewReader("kid=k"))
			r.Header.Set("Content-Type", ct)
			r.Header.Set("X-HTTP-Method-Override", "GET")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusUnsupportedMediaType {
				t.Errorf("POST %s as %q: %d, want 415", path, ct, w.Code)
			}
		}
	}
	r := httptest.NewRequest("POST", "/v1/signing-keys", nil)
	r.Header.Set("X-HTTP-Method-Override", "GET")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET" {
		t.Errorf("override without a body: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
	if len(k.calls) != 0 {
		t.Errorf("executed: %v", k.calls)
	}
}

// A gateway in front of a connection. grpcserver does this by itself from its Config.REST.
func ExampleNew() {
	conn, err := grpc.NewClient("passthrough:///nowhere", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h, err := gateway.New(ctx, conn, mciasv1.RegisterKeyHandler)
	if err != nil {
		fmt.Println(err)
		return
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("DELETE", "/v1/signing-keys", nil))
	fmt.Println(w.Code, w.Header().Get("Allow"))
	// Output: 405 GET
}
