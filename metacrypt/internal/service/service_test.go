package service_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"metacircular.net/mcdsl/mctest"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

func TestFromNothingToARenewedCertificate(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	p.start(t)
	if _, errOut, code := p.cli(t, "x", "unseal", "--password-file", "-"); code != 1 || !strings.Contains(errOut, "metacrypt is not initialized") {
		t.Errorf("unseal before init: exit %d, %s", code, errOut)
	}
	if _, errOut, code := p.cli(t, "short", "init", "--password-file", "-", "--recovery-out", filepath.Join(p.root, "r")); code != 2 || !strings.Contains(errOut, "at least 12") {
		t.Errorf("short password: exit %d, %s", code, errOut)
	}
	if _, err := os.Stat(filepath.Join(p.root, "r")); err == nil {
		t.Error("a refused init left a recovery sheet")
	}
	p.kill()
	p.up(t)
	if _, errOut, code := p.cli(t, unsealPassword, "init", "--password-file", "-", "--recovery-out", filepath.Join(p.root, "r2")); code != 1 || !strings.Contains(errOut, "initialized already") {
		t.Errorf("second init: exit %d, %s", code, errOut)
	}
	for _, f := range []string{"root.key", "issuer.key"} {
		if _, err := os.Stat(filepath.Join(p.root, "ca", f)); err == nil {
			t.Errorf("%s is still there after adopt", f)
		}
	}
	p.must(t, "", "pki", "issue", "--out-dir", p.root, "blog.mc.localhost")
	crt, key := filepath.Join(p.root, "blog.mc.localhost.crt"), filepath.Join(p.root, "blog.mc.localhost.key")
	before, err := os.ReadFile(crt)
	if err != nil {
		t.Fatal(err)
	}
	p.must(t, "", "pki", "renew", crt, key)
	after, err := os.ReadFile(crt)
	if err != nil || bytes.Equal(before, after) {
		t.Errorf("renew changed nothing: %v", err)
	}
	if _, err := tls.LoadX509KeyPair(crt, key); err != nil {
		t.Errorf("the renewed pair: %v", err)
	}
	if _, errOut, code := p.cli(t, "", "pki", "issue", "--out-dir", p.root, "evil.example"); code != 4 || !strings.Contains(errOut, "outside what the issuer may sign") {
		t.Errorf("outside the constraints: exit %d, %s", code, errOut)
	}
	if out := p.must(t, "", "trust", "show"); !strings.HasPrefix(out, "sha256:") {
		t.Errorf("trust show = %q", out)
	}
	p.must(t, "s3cret value", "kv", "put", "apps/blog/db", "--file", "password=-")
	if out := p.must(t, "", "kv", "get", "apps/blog/db", "--field", "password"); out != "s3cret value" {
		t.Errorf("kv get = %q", out)
	}
	for _, canary := range []string{unsealPassword, "s3cret value"} {
		if strings.Contains(p.log.String(), canary) {
			t.Errorf("%q lies in the log", canary)
		}
	}
}

func TestPolicyLetsAnAgentGetItsNamesAndNoOthers(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	p.up(t)
	p.must(t, "", "policy", "put", "node-a", "--user", "mcp-agent", "--action", "issue", "--resource", "pki/pki/*", "--name", "*.mc.localhost", "--name", "a.node.mc.localhost")
	agent := metacryptv1.NewPKIClient(p.dial(t, p.idp.Token(mctest.System("mcp-agent").For("metacrypt"))))
	issue := func(names ...string) error {
		_, err := agent.Issue(t.Context(), &metacryptv1.IssueRequest{Identifiers: names})
		return err
	}
	mctest.Eventually(t, "the agent gets an app's certificate", func() bool { return issue("blog.mc.localhost") == nil })
	if err := issue("a.node.mc.localhost"); err != nil {
		t.Errorf("own node: %v", err)
	}
	for _, names := range [][]string{{"mcias.mc.localhost"}, {"MCIAS.mc.localhost."}, {"mc.localhost"}, {"*.mc.localhost"}, {"b.node.mc.localhost"},
		{"blog.mc.localhost", "mcr.mc.localhost"}, {"x.mcias.mc.localhost"}, {"127.0.0.1"}, {"_acme-challenge.mc.localhost"}} {
		if err := issue(names...); err == nil {
			t.Errorf("%v was issued", names)
		}
	}
	if _, errOut, code := p.cli(t, "", "policy", "explain", "--user", "mcp-agent", "--name", "mcias.mc.localhost", "issue", "pki/pki/server"); code != 1 || strings.Contains(errOut, "next") {
		t.Errorf("explain: exit %d, %s", code, errOut)
	}
	p.must(t, "", "policy", "explain", "--user", "mcp-agent", "--name", "blog.mc.localhost", "issue", "pki/pki/server")
}

// TestNothingAcknowledgedIsLost kills the process while it issues and writes rules; more rounds under make soak.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	rounds := 2
	if os.Getenv("MC_SOAK") != "" {
		rounds = 50
	}
	p := prepare(t)
	p.up(t)
	var mu sync.Mutex
	var serials, rules []string
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		conn := p.socket(t)
		pki, pol := metacryptv1.NewPKIClient(conn), metacryptv1.NewPolicyClient(conn)
		var wg sync.WaitGroup
		enough := make(chan struct{}, 1024)
		for w := range 3 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					res, err := pki.Issue(ctx, &metacryptv1.IssueRequest{Identifiers: []string{fmt.Sprintf("n%d.mc.localhost", i)}})
					if err != nil {
						return
					}
					id := fmt.Sprintf("r%d-%d-%d", round, w, i)
					_, err = pol.Put(ctx, &metacryptv1.PolicyPutRequest{Rule: &metacryptv1.Rule{Id: id, Effect: "deny"}})
					mu.Lock()
					serials = append(serials, res.GetCertificate().GetSerial())
					if err == nil {
						rules = append(rules, id)
					}
					mu.Unlock()
					select {
					case enough <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 15 + 7*round%11 {
			<-enough
		}
		p.kill()
		wg.Wait()
		cancel()
		p.start(t) // the credential file unseals
		if st := p.state(t); st != metacryptv1.SealState_SEAL_STATE_UNSEALED {
			t.Fatalf("after the kill: %v\n%s", st, p.log)
		}
		conn = p.socket(t)
		pki, pol = metacryptv1.NewPKIClient(conn), metacryptv1.NewPolicyClient(conn)
		for _, s := range serials {
			if _, err := pki.GetCert(t.Context(), &metacryptv1.GetCertRequest{Serial: s}); err != nil {
				t.Errorf("certificate %s left the process and is not recorded: %v", s, err)
			}
		}
		for _, id := range rules {
			if _, err := pol.Get(t.Context(), &metacryptv1.PolicyGetRequest{Id: id}); err != nil {
				t.Errorf("rule %s was acknowledged and is gone: %v", id, err)
			}
		}
	}
}

func TestPagesUnsealWithoutALogin(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	p.up(t)
	p.must(t, "", "--yes", "seal")
	get := func(path string) (int, string) {
		res, err := p.client().Get(p.url(path)) //nolint:noctx // the client has a timeout
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	if code, body := get("/"); code != http.StatusOK || !strings.Contains(body, "Sealed.") {
		t.Errorf("GET / while sealed = %d", code)
	}
	if code, body := get("/unseal"); code != http.StatusOK || !strings.Contains(body, `action="/unseal"`) {
		t.Errorf("GET /unseal = %d", code)
	}
	post := func(secret, origin string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", p.url("/unseal"), strings.NewReader(url.Values{"secret": {secret}}.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", origin)
		c := p.client()
		c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	own := strings.TrimSuffix(p.url("/"), "/")
	if code, _ := post(unsealPassword, "https://evil.mc.localhost"); code != http.StatusForbidden {
		t.Errorf("a sibling's form = %d, want 403", code)
	}
	if code, body := post("not this sentence", own); code != http.StatusUnprocessableEntity || !strings.Contains(body, "opens no slot") || strings.Contains(body, "not this sentence") {
		t.Errorf("wrong password = %d", code)
	}
	mctest.Eventually(t, "the back-off ends and the page unseals", func() bool {
		code, _ := post(unsealPassword, own)
		return code == http.StatusSeeOther
	})
	if st := p.state(t); st != metacryptv1.SealState_SEAL_STATE_UNSEALED {
		t.Errorf("after the form: %v", st)
	}
}

func TestPublicFilesAreServedSealed(t *testing.T) {
	t.Parallel()
	p := prepare(t)
	p.up(t)
	p.must(t, "", "--yes", "seal")
	for _, path := range []string{"ca", "ca/chain", "bundle", "issuer/issuer-1", "crl/root", "crl/issuer-1"} {
		res, err := p.client().Get(p.url("/v1/pki/pki/" + path)) //nolint:noctx // the client has a timeout
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || res.Header.Get("ETag") == "" {
			t.Errorf("%s = %d, ETag %q", path, res.StatusCode, res.Header.Get("ETag"))
		}
	}
}
