package server_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

// chromium starts a headless one that trusts the test's root and nothing else. It is skipped where there is none.
func (p *platform) chromium(t *testing.T) context.Context {
	t.Helper()
	bin, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium here: apt install chromium libnss3-tools")
	}
	home := t.TempDir()
	db := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "test", "-t", "C,,", "-i", p.ca.RootFile}} {
		if out, err := exec.CommandContext(t.Context(), "certutil", append([]string{"-d", "sql:" + db}, args...)...).CombinedOutput(); err != nil {
			t.Skipf("certutil: %v: %s", err, out)
		}
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(bin), chromedp.NoSandbox, chromedp.Env("HOME="+home),
		chromedp.UserDataDir(filepath.Join(home, "profile")), chromedp.Flag("disable-gpu", true))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // starts it: the first call must not carry the timeout
		t.Fatal(err)
	}
	ctx, end := context.WithTimeout(ctx, 60*time.Second)
	t.Cleanup(end)
	return ctx
}

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

func value[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// shoot writes pictures of a page in both themes and widths when MC_SHOTS names a folder.
func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	folder, themes := os.Getenv("MC_SHOTS"), []string{"light"}
	if folder != "" {
		themes = append(themes, "dark")
	}
	for _, theme := range themes {
		for _, width := range []int64{1280, 390} {
			do(t, ctx, chromedp.EmulateViewport(width, 800))
			media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}
			if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
				t.Fatal(err)
			}
			if over := value(t, ctx, chromedp.Evaluate[float64](`document.documentElement.scrollWidth - innerWidth`)); over > 0 {
				t.Errorf("%s at %d px scrolls sideways by %v px", name, width, over)
			}
			if folder == "" {
				continue
			}
			png := value(t, ctx, chromedp.FullScreenshot(100))
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("%s-%s-%d.png", name, theme, width)), png, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPagesInChromium walks through the pages under the real policy of headers, and through a sign-in to an app on
// another origin, which form-action would block if the answer to the form were a redirect.
func TestPagesInChromium(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	p.person("bob", bobPassword, "user")
	p.person("a-name-as-long-as-names-may-be-0123456789-0123456789-0123456", bobPassword, "guest")
	p.service("mcr", []string{"core"}, "https://mcr.mc.localhost/login/callback")
	leaf := p.ca.Leaf(t, "gitea.mc.localhost")
	gitea := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "<!doctype html><title>gitea</title><h1 id=in>back at gitea</h1>")
	}))
	gitea.TLS = &tls.Config{Certificates: []tls.Certificate{leaf.TLS}, MinVersion: tls.VersionTLS13}
	gitea.StartTLS()
	t.Cleanup(gitea.Close)
	back := "https://gitea.mc.localhost:" + gitea.URL[strings.LastIndexByte(gitea.URL, ':')+1:] + "/callback"
	if _, err := mciasv1.NewClientClient(p.local).Create(t.Context(), &mciasv1.ClientCreateRequest{Id: "gitea", Kind: "web", RedirectUris: []string{back}, Allow: []string{"role:user"}}); err != nil {
		t.Fatal(err)
	}
	ctx := p.chromium(t)
	authorize := p.issuer + "/oidc/authorize?" + params("gitea", "redirect_uri", back).Encode()

	do(t, ctx, chromedp.Navigate(authorize), chromedp.WaitVisible("#f-username"))
	shoot(t, ctx, "sign-in")
	do(t, ctx, chromedp.SendKeys("#f-username", "bob"), chromedp.SendKeys("#f-password", "wrong"), chromedp.Submit("#f-password"), chromedp.WaitVisible(".note-bad"))
	shoot(t, ctx, "sign-in-refused")
	do(t, ctx, chromedp.SendKeys("#f-password", bobPassword), chromedp.Submit("#f-password"), chromedp.WaitVisible(`button[value=allow]`))
	shoot(t, ctx, "consent")
	do(t, ctx, chromedp.Click(`button[value=allow]`), chromedp.WaitVisible("#in"))
	at, err := url.Parse(value(t, ctx, chromedp.Location()))
	if err != nil || at.Query().Get("code") == "" || at.Query().Get("iss") != p.issuer {
		t.Errorf("back at %v, %v, want a code", at, err)
	}
	// A second app sign-in needs neither password nor question.
	do(t, ctx, chromedp.Navigate(authorize), chromedp.WaitVisible("#in"))
	do(t, ctx, chromedp.Navigate(p.issuer+"/account"), chromedp.WaitVisible("#g-h"))
	shoot(t, ctx, "account")
	do(t, ctx, chromedp.Navigate(p.issuer+"/accounts"), chromedp.WaitVisible("main"))
	if text := value(t, ctx, chromedp.Evaluate[string](`document.querySelector("main").innerText`)); !strings.Contains(text, "You may not do this") {
		t.Errorf("a user opens the accounts page: %s", text)
	}
	shoot(t, ctx, "denied")
	do(t, ctx, chromedp.Evaluate[chromedp.Void](`void document.querySelector('form[action="/logout"]').requestSubmit()`), chromedp.WaitVisible("#f-username"))

	do(t, ctx, chromedp.Navigate(p.issuer+"/login?next=/accounts"), chromedp.WaitVisible("#f-username"), chromedp.SendKeys("#f-username", "alice"),
		chromedp.SendKeys("#f-password", adminPassword), chromedp.Submit("#f-password"), chromedp.WaitVisible("#a-h"))
	for name, path := range map[string]string{"accounts": "/accounts", "account-one": "/accounts/bob", "account-new": "/accounts/new", "sessions": "/sessions",
		"clients": "/clients", "client": "/clients/show?id=gitea", "client-new": "/clients/new", "policy": "/policy", "audit": "/audit"} {
		do(t, ctx, chromedp.Navigate(p.issuer+path), chromedp.WaitVisible("h1"))
		if text := value(t, ctx, chromedp.Evaluate[string](`document.querySelector("h1").innerText`)); strings.Contains(text, "not") {
			t.Errorf("%s: %s", path, text)
		}
		shoot(t, ctx, name)
	}
	// The setup link fills its code in from the part after #, which no server sees.
	l, err := mciasv1.NewAccountClient(p.local).CreateSetupLink(t.Context(), &mciasv1.AccountCreateSetupLinkRequest{Name: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	do(t, ctx, chromedp.Navigate(l.GetLink().GetUrl()), chromedp.WaitVisible("#f-link"))
	if got := value(t, ctx, chromedp.Evaluate[string](`document.getElementById("f-link").value`)); got != l.GetLink().GetSecret() {
		t.Errorf("the setup code is not filled in: %q", got)
	}
	shoot(t, ctx, "setup")
	do(t, ctx, chromedp.SendKeys("#f-password", "another long sentence"), chromedp.SendKeys("#f-again", "another long sentence"), chromedp.Submit("#f-again"), chromedp.WaitVisible("h1"))
	p.login("bob", "another long sentence")
}
