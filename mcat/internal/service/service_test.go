package service_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"metacircular.net/mcdsl/cli/clitest"
	"metacircular.net/mcdsl/mctest"

	"metacircular.net/mcat/internal/service"
)

func get(t *testing.T, c *http.Client, url string) (int, string, *http.Response) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body), res
}

func want(t *testing.T, page, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s lacks %q:\n%s", page, p, text)
		}
	}
}

func TestSignInShowsTheDecision(t *testing.T) {
	t.Parallel()
	srv := clitest.Serve(t, service.New(), clitest.Options{})
	srv.OP.SignedIn("alice", mctest.Human("alice", "admin"))
	c := srv.Browser(t)

	code, page, res := get(t, c, srv.URL+"/")
	if code != http.StatusOK {
		t.Fatalf("GET / = %d\n%s\n%s", code, page, srv.Log)
	}
	want(t, "signed out", page, "You are not signed in.", `href="/login"`)
	if csp := res.Header.Get("Content-Security-Policy"); strings.Contains(csp, "unsafe") || !strings.Contains(csp, "form-action 'self' "+srv.OP.URL) {
		t.Errorf("CSP = %q", csp)
	}

	code, page, _ = get(t, c, srv.URL+"/login")
	if code != http.StatusOK {
		t.Fatalf("sign-in ends with %d\n%s\n%s", code, page, srv.Log)
	}
	want(t, "signed in", page, "You are alice", "What the policy said", "allow", "id-alice", "Sign out")

	res, err := c.Post(srv.URL+"/logout", "application/x-www-form-urlencoded", nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	want(t, "after signing out", string(body), "You are not signed in.")
	if n := len(srv.OP.Logouts()); n != 1 {
		t.Errorf("%d requests to end the session at MCIAS, want 1", n)
	}
}

func TestHealthNeedsNoSignIn(t *testing.T) {
	t.Parallel()
	srv := clitest.Serve(t, service.New(), clitest.Options{})
	for path, text := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n"} {
		if code, body, _ := get(t, srv.Browser(t), srv.URL+path); code != http.StatusOK || body != text {
			t.Errorf("GET %s = %d %q, want 200 %q", path, code, body, text)
		}
	}
}

func TestRefusedSignInSaysSo(t *testing.T) {
	t.Parallel()
	srv := clitest.Serve(t, service.New(), clitest.Options{})
	srv.OP.Refuse("access_denied")
	code, page, _ := get(t, srv.Browser(t), srv.URL+"/login")
	if code != http.StatusForbidden {
		t.Errorf("status = %d, want 403", code)
	}
	want(t, "denied", page, "You may not use mcat", "req ")
}
