package grpcserver_test

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/mctest"
)

// Not parallel: it looks at the goroutines of the whole process.
func TestStopLeavesNothing(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	ca := mctest.NewCA(t)
	w := &world{impl: &sample{opened: make(chan struct{}, 1)}, audit: &records{}}
	c := config(w)
	c.HTTPAddr, c.GRPCAddr, c.Socket = "127.0.0.1:0", "127.0.0.1:0", filepath.Join(t.TempDir(), "s.sock")
	c.GetCertificate = ca.Certificate(t, host)
	c.LocalAdmins = []uint32{0}
	c.Rules["/mcias.v1.Watch/Watch"] = auth.Public()
	srv, err := grpcserver.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	if err := srv.Start(ctx); err != nil {
		t.Fatal(err)
	}
	bad := c
	bad.Rules = auth.Map{}
	if _, err := grpcserver.New(bad); err == nil { // a server that is refused leaves nothing, either
		t.Fatal("a server without rules was built")
	}
	stream, err := mciasv1.NewWatchClient(srv.InProcess()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	<-w.impl.opened // an endless stream is open
	stop, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := srv.Stop(stop); err != nil {
		t.Errorf("Stop = %v", err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if stop.Err() != nil {
		t.Error("the endless stream held the stop up")
	}
	goleak.VerifyNone(t, ignore)
}

func TestSocketTaken(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := config(w)
	c.Socket = w.srv.SocketPath()
	second, err := grpcserver.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); err == nil {
		t.Error("a second server took the socket of a running one")
	}
	if err := second.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// pages is a site whose session is a cookie that holds the token itself.
type pages struct{}

func (pages) Mount(r chi.Router, conn *grpc.ClientConn) {
	r.Get("/", func(w http.ResponseWriter, r *http.Request) {
		keys, err := mciasv1.NewKeyClient(conn).List(r.Context(), &mciasv1.KeyListRequest{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, "page of "+keys.GetKeys()[0].GetKid())
	})
	r.Post("/act", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusSeeOther) })
}

func (pages) Token(r *http.Request) (string, error) {
	c, err := r.Cookie("__Host-sample")
	if err != nil {
		return "", nil
	}
	return c.Value, nil
}

func (pages) Refuse(w http.ResponseWriter, _ *http.Request, err error) {
	w.WriteHeader(http.StatusTeapot)
	_, _ = io.WriteString(w, err.Error())
}

func TestPages(t *testing.T) {
	t.Parallel()
	w := start(t, func(_ *world, c *grpcserver.Config) {
		c.Pages = pages{}
		c.Rules["HTTP GET /"], c.Rules["HTTP POST /act"] = auth.Roles("user"), auth.Authenticated()
	})
	user := w.idp.Token(mctest.Human("alice", "user").For("sample"))
	guest := w.idp.Token(mctest.Human("eve", "guest").For("sample"))
	cookie := func(tok string) []string { return []string{"Cookie", "__Host-sample=" + tok} }
	same := []string{"Sec-Fetch-Site", "same-origin"}
	tests := []struct {
		name, method, path string
		header             []string
		token              string
		code               int
		body               string
	}{
		{"session", "GET", "/", cookie(user), "", 200, "page of alice"},
		{"wrong role", "GET", "/", cookie(guest), "", 418, ""},
		{"no session", "GET", "/", nil, "", 418, ""},
		{"bearer is no session", "GET", "/", nil, user, 418, ""},
		{"write from our page", "POST", "/act", append(cookie(user), same...), "", 303, ""},
		{"write from elsewhere", "POST", "/act", append(cookie(user), "Sec-Fetch-Site", "same-site"), "", 418, ""},
		{"write from nowhere", "POST", "/act", cookie(user), "", 418, ""},
		{"no such page", "GET", "/nowhere", nil, "", 418, ""},
	}
	for _, tt := range tests {
		code, body, _ := w.do(t, tt.method, tt.path, tt.token, "", tt.header...)
		if code != tt.code || tt.body != "" && body != tt.body {
			t.Errorf("%s: %d %q, want %d %q", tt.name, code, body, tt.code, tt.body)
		}
	}
}
