package service_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"metacircular.net/mcdsl/cli/clitest"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/web/webtest"

	"metacircular.net/mcat/internal/service"
)

// TestInChromium signs in and out in a real browser, in both themes and at two widths. MC_SHOTS names a folder that
// keeps the pictures.
func TestInChromium(t *testing.T) {
	shots := os.Getenv("MC_SHOTS")
	if shots == "" {
		shots = t.TempDir()
	}
	srv := clitest.Serve(t, service.New(), clitest.Options{})
	srv.OP.SignedIn("alice", mctest.Human("alice", "admin"))
	b := webtest.NewBrowser(t, srv.CA)
	shoot := func(name string) {
		for _, theme := range []string{"dark", "light"} {
			b.Submit("button[value=" + theme + "]")
			if got := webtest.Eval[string](b, "document.documentElement.dataset.theme"); got != theme {
				t.Errorf("theme = %q, want %q", got, theme)
			}
			b.Shoot(filepath.Join(shots, name+"-"+theme+"-1280.png"), 1280)
			b.Shoot(filepath.Join(shots, name+"-"+theme+"-390.png"), 390)
		}
	}
	b.Open(srv.URL + "/")
	shoot("out")
	b.Open(srv.URL + "/login")
	if text := b.Text(); !strings.Contains(text, "You are alice") {
		t.Fatalf("after signing in: %s\n%s", text, srv.Log)
	}
	shoot("in")
	b.Submit("form[action='/logout'] button")
	if text := b.Text(); !strings.Contains(text, "You are not signed in") {
		t.Errorf("after signing out: %s", text)
	}
	srv.OP.Refuse("access_denied")
	b.Open(srv.URL + "/login")
	b.Shoot(filepath.Join(shots, "denied-1280.png"), 1280)
}
