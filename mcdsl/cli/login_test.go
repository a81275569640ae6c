package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/timestamppb"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/secret"
)

// authority answers Login and Mint(session) as MCIAS does, and counts.
type authority struct {
	mciasv1.UnimplementedAuthServer
	mciasv1.UnimplementedTokenServer

	mu     sync.Mutex // guards what follows
	mints  int
	ended  bool
	needOT bool
}

func (a *authority) Login(_ context.Context, r *mciasv1.LoginRequest) (*mciasv1.LoginResponse, error) {
	switch {
	case r.GetPassword() != "correct horse battery":
		return nil, fault.Status(fault.New(fault.Unauthenticated, "wrong name, password or code, or too many attempts: wait a minute"), fault.Origin{Service: "mcias"}).Err()
	case a.needOT && r.GetOtp() != "123456":
		return nil, fault.Status(fault.New(fault.Unauthenticated, "a code is needed").WithReason("OTP_REQUIRED"), fault.Origin{Service: "mcias"}).Err()
	}
	return &mciasv1.LoginResponse{Session: "session-secret", SessionExpiresAt: timestamppb.New(time.Now().Add(time.Hour)), Sid: "s1", Username: r.GetUsername()}, nil
}

func (a *authority) Mint(_ context.Context, r *mciasv1.MintRequest) (*mciasv1.MintResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended || r.GetSession() != "session-secret" {
		return nil, fault.Status(fault.New(fault.Unauthenticated, "no such session"), fault.Origin{Service: "mcias"}).Err()
	}
	a.mints++
	return &mciasv1.MintResponse{Token: fmt.Sprintf("token-%s-%d", r.GetAudiences()[0], a.mints), ExpiresAt: timestamppb.New(time.Now().Add(10 * time.Minute)), Outcome: "allow"}, nil
}

// platform starts the authority and returns the root of a platform that names it.
func platform(t *testing.T, a *authority) string {
	t.Helper()
	ca := mctest.NewCA(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(httpserver.TLSConfig(ca.Certificate(t, mctest.Name), "h2"))))
	mciasv1.RegisterAuthServer(srv, a)
	mciasv1.RegisterTokenServer(srv, a)
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	root := t.TempDir()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	if err := os.MkdirAll(filepath.Join(root, "mcr"), 0o750); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[mcias]\nserver_url = \"https://mcias.mc.localhost:8443\"\ngrpc_addr = \"mcias.mc.localhost:%s\"\n", port)
	pem, err := os.ReadFile(ca.RootFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"mcr/mcr.toml": []byte(text), "ca.pem": pem} {
		if err := os.WriteFile(filepath.Join(root, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func envOf(root string) *cli.Env {
	return &cli.Env{Service: "mcr", Root: root, In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{},
		Getenv: func(string) string { return "" }, Clock: clock.System()}
}

func TestLoginIsSavedPrivately(t *testing.T) {
	t.Parallel()
	a := &authority{needOT: true}
	root := platform(t, a)
	e := envOf(root)
	_, err := e.LogIn(t.Context(), cli.LoginRequest{Username: "alice", Password: secret.FromString("wrong")})
	if fault.ExitCode(err) != 4 {
		t.Errorf("wrong password = %v, want exit code 4", err)
	}
	if _, err := os.Stat(filepath.Join(root, "login.json")); err == nil {
		t.Error("a failed login left a file")
	}
	l, err := e.LogIn(t.Context(), cli.LoginRequest{Username: "alice", Password: secret.FromString("correct horse battery"),
		OTP: func() (string, error) { return "123456", nil }})
	if err != nil || l.Username != "alice" {
		t.Fatalf("LogIn = %v, %v", l, err)
	}
	info, err := os.Stat(filepath.Join(root, "login.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("login.json: %v, %v; want mode 0600", info, err)
	}
}

func TestManyCommandsOneRefresh(t *testing.T) {
	t.Parallel()
	a := &authority{}
	root := platform(t, a)
	if _, err := envOf(root).LogIn(t.Context(), cli.LoginRequest{Username: "alice", Password: secret.FromString("correct horse battery")}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	tokens := make([]string, 12)
	for i := range tokens {
		wg.Go(func() {
			tok, err := envOf(root).Token(t.Context(), "mcr") // each its own command
			if err != nil {
				t.Error(err)
			}
			tokens[i] = tok
		})
	}
	wg.Wait()
	for _, tok := range tokens {
		if tok != tokens[0] {
			t.Errorf("tokens differ: %q", tokens)
			break
		}
	}
	if a.mints != 1 {
		t.Errorf("%d mints, want 1", a.mints)
	}
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	_, err := envOf(root).Token(t.Context(), "mcns")
	if err == nil || !strings.Contains(fault.Text(err), "no longer valid") || !strings.Contains(fault.Text(err), "next: mcp --root") {
		t.Errorf("after the session ended: %q", fault.Text(err))
	}
}

func TestUnreachableSaysWhat(t *testing.T) {
	t.Parallel()
	a := &authority{}
	root := platform(t, a)
	e := envOf(root)
	if _, err := e.LogIn(t.Context(), cli.LoginRequest{Username: "alice", Password: secret.FromString("correct horse battery")}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := ln.Addr().String()
	_ = ln.Close()
	_, port, _ := net.SplitHostPort(free)
	e.Addr = "mcr.mc.localhost:" + port
	conn, err := e.Dial(t.Context(), "mcr")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = mciasv1.NewKeyClient(conn).List(t.Context(), &mciasv1.KeyListRequest{})
	want := "cannot reach mcr at mcr.mc.localhost:" + port + ": connection refused"
	if fault.ExitCode(err) != 5 || !strings.HasPrefix(fault.Text(err), want) {
		t.Errorf("error = %q, want %q and exit code 5", fault.Text(err), want)
	}
}
