package webtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"metacircular.net/mcdsl/mctest"
)

const browserTime = 30 * time.Second

// Browser is a headless Chromium that trusts a test's root as a user would: imported into its store, so that the
// served chain is proved and no error is ignored. It belongs to one test.
type Browser struct {
	t   testing.TB
	ctx context.Context
}

// NewBrowser starts Chromium; the test is skipped, saying so, where Chromium or certutil is missing.
func NewBrowser(t testing.TB, ca *mctest.CA) *Browser {
	t.Helper()
	for _, tool := range []string{"chromium", "certutil"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	home := t.TempDir()
	nss := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(nss, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-t", "C,,", "-n", "platform root", "-i", ca.RootFile}} {
		if out, err := exec.Command("certutil", append([]string{"-d", "sql:" + nss}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("certutil %v: %v\n%s", args, err, out)
		}
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.Env("HOME="+home),
		chromedp.UserDataDir(filepath.Join(home, "profile")), chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-component-update", true))
	if os.Geteuid() == 0 {
		opts = append(opts, chromedp.NoSandbox)
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &Browser{t: t, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil { // starts it, without a time limit that would end it
		t.Fatal(err)
	}
	return b
}

// Do runs steps within half a minute.
func (b *Browser) Do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTime)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// Open goes to an address.
func (b *Browser) Open(url string) {
	b.t.Helper()
	b.Do(chromedp.Navigate(url))
}

// Eval returns the value of an expression of JavaScript.
func Eval[T any](b *Browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTime)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// Text returns the text of the page.
func (b *Browser) Text() string {
	b.t.Helper()
	return Eval[string](b, "document.body.innerText")
}

// Shoot writes a picture of the whole page at a width in pixels, and checks that nothing scrolls sideways.
func (b *Browser) Shoot(file string, width int64) {
	b.t.Helper()
	b.Do(chromedp.EmulateViewport(width, 900))
	if over := Eval[float64](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
		b.t.Errorf("%s: the page is %v px wider than the window", file, over)
	}
	ctx, cancel := context.WithTimeout(b.ctx, browserTime)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, png, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// Submit clicks what a CSS selector finds, by script so that closed menus don't matter, and waits for the page it
// leads to.
func (b *Browser) Submit(selector string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserTime)
	defer cancel()
	click := chromedp.Evaluate[bool]("(document.querySelector(" + strconv.Quote(selector) + ")?.click(), true)")
	_, err := chromedp.RunResponse(ctx, func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := click(ctx, t)
		return chromedp.Void{}, err
	})
	if err != nil {
		b.t.Fatalf("click %s: %v", selector, err)
	}
}

// Until waits for a text on the page, across pages that lead on by themselves.
func (b *Browser) Until(text string) {
	b.t.Helper()
	mctest.Eventually(b.t, "the page shows "+strconv.Quote(text), func() bool {
		ctx, cancel := context.WithTimeout(b.ctx, browserTime)
		defer cancel()
		// Between two pages there is no body.
		got, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
		return err == nil && strings.Contains(got, text)
	})
}
