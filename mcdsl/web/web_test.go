package web_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/mctest"
	"metacircular.net/mcdsl/web"
	"metacircular.net/mcdsl/web/webtest"
)

func site(t *testing.T, cfg web.Config) (*web.Site, http.Handler) {
	t.Helper()
	if cfg.Service == "" {
		cfg.Service = "mcns"
	}
	cfg.Issuer = "https://mcias.lab.example"
	s, err := web.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := chi.NewRouter()
	s.Mount(r, nil)
	return s, r
}

func do(h http.Handler, method, target string, header http.Header, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for k, v := range header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func templates(content string) fstest.MapFS {
	return fstest.MapFS{"p.html": {Data: []byte(`{{define "content"}}` + content + `{{end}}`)}}
}

func TestPageAndFragmentAreOneTemplate(t *testing.T) {
	t.Parallel()
	_, h := site(t, web.Config{Templates: templates(`<b>{{.Data}}</b>{{badge "sealed"}}{{badge "weird"}}`),
		Sections: []web.Link{{Name: "Zones", URL: "/zones"}, {Name: "Keys", URL: "/zones/keys"}},
		Routes: func(s *web.Site, r chi.Router, _ *grpc.ClientConn) {
			r.Get("/zones/x", s.Page(func(w http.ResponseWriter, r *http.Request) error {
				return s.Render(w, r, "p.html", web.Page{Title: "Zone <x>", State: "One zone.", Data: "<script>"})
			}))
		}})
	full := do(h, "GET", "/zones/x", nil, "")
	for _, part := range []string{"<!doctype html>", "Zone &lt;x&gt; · mcns", "&lt;script&gt;", `<span class="st st-off">sealed</span>`,
		`<span class="st st-unknown">weird</span>`, `aria-current="page">mcns</a>`, "https://mcr.lab.example/"} {
		if !strings.Contains(full.Body.String(), part) {
			t.Errorf("page lacks %q:\n%s", part, full.Body)
		}
	}
	part := do(h, "GET", "/zones/x", http.Header{"Hx-Request": {"true"}}, "")
	if s := part.Body.String(); strings.Contains(s, "<!doctype") || !strings.Contains(s, "&lt;script&gt;") {
		t.Errorf("fragment = %s", s)
	}
	for _, banned := range []string{"style=", "<style", "<script>", "onclick", "javascript:"} {
		if strings.Contains(full.Body.String(), banned) {
			t.Errorf("page holds %q, which the CSP refuses", banned)
		}
	}
	if n := full.Body.Len(); n > 100<<10 {
		t.Errorf("page has %d bytes", n)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	_, h := site(t, web.Config{Templates: templates(""), Routes: func(s *web.Site, r chi.Router, _ *grpc.ClientConn) {
		r.Get("/", s.Page(func(w http.ResponseWriter, r *http.Request) error {
			return s.Render(w, r, "p.html", web.Page{Title: "x"})
		}))
	}})
	got := do(h, "GET", "/", nil, "").Header()
	for name, want := range map[string]string{
		"Content-Security-Policy":      "form-action 'self' https://mcias.lab.example",
		"Referrer-Policy":              "same-origin",
		"X-Content-Type-Options":       "nosniff",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control":                "no-store",
		"Strict-Transport-Security":    "max-age=",
	} {
		if !strings.Contains(got.Get(name), want) {
			t.Errorf("%s = %q, want %q in it", name, got.Get(name), want)
		}
	}
	if csp := got.Get("Content-Security-Policy"); strings.Contains(csp, "unsafe") {
		t.Errorf("CSP = %q", csp)
	}
}

func TestErrorsBecomePages(t *testing.T) {
	t.Parallel()
	s, _ := site(t, web.Config{})
	for _, tc := range []struct {
		err   error
		code  int
		parts []string
	}{
		{fault.New(fault.NotFound, "no zone %q", "x").WithNext("mcns zone list"), 404, []string{"Not here", `<code>mcns zone list</code>`}},
		{fault.New(fault.Denied, "rule says no"), 403, []string{"You may not do this", "Rule says no."}},
		{fault.New(fault.Unavailable, "mcias is sealed"), 503, []string{"comes back by itself", "Try again"}},
		{io.ErrUnexpectedEOF, 500, []string{"Something broke"}},
	} {
		w := httptest.NewRecorder()
		s.Refuse(w, httptest.NewRequest("GET", "/", nil), tc.err)
		if w.Code != tc.code {
			t.Errorf("%v: status %d, want %d", tc.err, w.Code, tc.code)
		}
		for _, p := range tc.parts {
			if !strings.Contains(w.Body.String(), p) {
				t.Errorf("%v: page lacks %q", tc.err, p)
			}
		}
		if strings.Contains(w.Body.String(), "unexpected EOF") {
			t.Error("the cause of an internal error was shown")
		}
	}
}

func TestStaticFilesAreHashedAndForEver(t *testing.T) {
	t.Parallel()
	_, h := site(t, web.Config{Templates: templates(""), Routes: func(s *web.Site, r chi.Router, _ *grpc.ClientConn) {
		r.Get("/", s.Page(func(w http.ResponseWriter, r *http.Request) error {
			return s.Render(w, r, "p.html", web.Page{Title: "x"})
		}))
	}})
	page := do(h, "GET", "/", nil, "").Body.String()
	found := regexp.MustCompile(`/static/[a-z.]+\.[0-9a-f]{8}\.(css|js|svg)`).FindAllString(page, -1)
	if len(found) != 3 {
		t.Fatalf("static files of the page = %q, want 3", found)
	}
	for _, f := range found {
		w := do(h, "GET", f, nil, "")
		if w.Code != 200 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s = %d, %q", f, w.Code, w.Header().Get("Cache-Control"))
		}
	}
	if w := do(h, "GET", "/static/app.css", nil, ""); w.Code != 404 {
		t.Errorf("a name without its hash = %d, want 404", w.Code)
	}
}

func TestVendoredFilesAreWhatTheyWere(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("static/htmx.min.js")
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("static/VENDORED.md")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if !strings.Contains(string(table), hex.EncodeToString(sum[:])) {
		t.Errorf("htmx.min.js has sha256 %x, which VENDORED.md does not name", sum)
	}
}

func TestThemeAndWayBack(t *testing.T) {
	t.Parallel()
	_, h := site(t, web.Config{})
	for _, tc := range []struct{ referer, to string }{
		{"http://example.com/zones?x=1", "/zones?x=1"},
		{"https://evil.example/zones", "/"},
		{"http://example.com//evil.example", "/"},
		{"http://example.com/\\evil.example", "/%5Cevil.example"},
		{"", "/"},
	} {
		w := do(h, "POST", "/theme", http.Header{"Referer": {tc.referer}, "Content-Type": {"application/x-www-form-urlencoded"}}, "theme=dark")
		if got := w.Header().Get("Location"); got != tc.to {
			t.Errorf("from %q back to %q, want %q", tc.referer, got, tc.to)
		}
		if c := w.Header().Get("Set-Cookie"); !strings.HasPrefix(c, "__Host-theme=dark;") || !strings.Contains(c, "Secure") {
			t.Errorf("cookie = %q", c)
		}
	}
}

// visitor walks through the sign-in by hand, so that each answer can be bent.
type visitor struct {
	t      testing.TB
	h      http.Handler
	op     *webtest.Provider
	client *http.Client
	jar    map[string]string
}

func newVisitor(t testing.TB) (*visitor, *web.Login) {
	t.Helper()
	ca := mctest.NewCA(t)
	idp := mctest.NewMCIAS(t, ca)
	op := webtest.NewProvider(t, ca, idp)
	op.KeyFile(t, "mcns")
	transport := ca.Roots(t).Transport(webtest.DialLoopback)
	login, err := web.NewLogin(web.LoginConfig{Service: "mcns", Issuer: op.URL, Key: idp.Key(t, "mcns"), MCIAS: idp.Conn(t), Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	s, err := web.New(web.Config{Service: "mcns", Issuer: op.URL, Identity: login, Templates: templates("in"),
		Routes: func(s *web.Site, r chi.Router, _ *grpc.ClientConn) {
			r.Get("/", s.Page(func(w http.ResponseWriter, r *http.Request) error {
				if tok, err := s.Token(r); tok == "" {
					if err == nil {
						err = fault.New(fault.Unauthenticated, "sign in")
					}
					return err
				}
				return s.Render(w, r, "p.html", web.Page{Title: "You are " + s.User(r).Name})
			}))
		}})
	if err != nil {
		t.Fatal(err)
	}
	r := chi.NewRouter()
	s.Mount(r, nil)
	op.SignedIn("alice", mctest.Human("alice", "user"))
	return &visitor{t: t, h: r, op: op, jar: map[string]string{}, client: &http.Client{Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, login
}

// get asks the service, with the cookies it has set.
func (v *visitor) get(target string) *http.Response {
	v.t.Helper()
	r := httptest.NewRequest("GET", target, nil)
	r.Host = "mcns.mc.localhost"
	for k, val := range v.jar {
		r.AddCookie(&http.Cookie{Name: k, Value: val})
	}
	w := httptest.NewRecorder()
	v.h.ServeHTTP(w, r)
	res := w.Result()
	for _, c := range res.Cookies() {
		if v.jar[c.Name] = c.Value; c.MaxAge < 0 {
			delete(v.jar, c.Name)
		}
	}
	return res
}

// leave starts the sign-in and returns the provider's answer as a path of ours.
func (v *visitor) leave(start string) *url.URL {
	v.t.Helper()
	away := v.get(start)
	res, err := v.client.Get(away.Header.Get("Location"))
	if err != nil {
		v.t.Fatal(err)
	}
	_ = res.Body.Close()
	back, err := res.Location()
	if err != nil {
		v.t.Fatalf("the provider answers %s: %v", res.Status, err)
	}
	return back
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	v, login := newVisitor(t)
	if to := v.get("/").Header.Get("Location"); to != "/login" {
		t.Fatalf("signed out, / leads to %q", to)
	}
	back := v.leave("/login?next=/zones%3Fx=1")
	res := v.get(back.RequestURI())
	if res.StatusCode != 303 || res.Header.Get("Location") != "/zones?x=1" {
		t.Fatalf("callback = %s to %q", res.Status, res.Header.Get("Location"))
	}
	body, _ := io.ReadAll(v.get("/").Body)
	if !strings.Contains(string(body), "You are alice") {
		t.Errorf("page = %s", body)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-mcns", Value: v.jar["__Host-mcns"]})
	st := login.Session(r).State()
	if st.Decision.Outcome != "allow" || st.Claims.Name != "alice" || time.Until(st.Expires) <= 0 {
		t.Errorf("session = %+v", st)
	}
	// The same answer a second time opens nothing: its cookie is gone.
	delete(v.jar, "__Host-mcns")
	if again := v.get(back.RequestURI()); again.StatusCode != 400 || v.jar["__Host-mcns"] != "" {
		t.Errorf("a replayed answer = %s", again.Status)
	}
}

func TestSignInRefusals(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		bend func(v *visitor, back url.Values)
		code int
	}{
		{"other state", func(_ *visitor, q url.Values) { q.Set("state", "x") }, 400},
		{"other issuer", func(_ *visitor, q url.Values) { q.Set("iss", "https://evil.example") }, 400},
		{"other code", func(_ *visitor, q url.Values) { q.Set("code", "x") }, 400},
		{"denied", func(_ *visitor, q url.Values) { q.Del("code"); q.Set("error", "access_denied") }, 403},
		{"no cookie", func(v *visitor, _ url.Values) { v.jar = map[string]string{} }, 400},
		{"cookie bent", func(v *visitor, _ url.Values) { v.jar["__Host-mcns-login"] += "A" }, 400},
		{"nonce of another", func(v *visitor, _ url.Values) { v.op.Change(func(c map[string]any) { c["nonce"] = "x" }) }, 400},
		{"audience of another", func(v *visitor, _ url.Values) { v.op.Change(func(c map[string]any) { c["aud"] = "mcr" }) }, 400},
		{"issuer of another", func(v *visitor, _ url.Values) {
			v.op.Change(func(c map[string]any) { c["iss"] = "https://evil.example" })
		}, 400},
		{"expired", func(v *visitor, _ url.Values) { v.op.Change(func(c map[string]any) { c["exp"] = 1000 }) }, 400},
		{"no exp", func(v *visitor, _ url.Values) { v.op.Change(func(c map[string]any) { delete(c, "exp") }) }, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			v, _ := newVisitor(t)
			back := v.leave("/login")
			q := back.Query()
			tc.bend(v, q)
			res := v.get("/login/callback?" + q.Encode())
			if res.StatusCode != tc.code || v.jar["__Host-mcns"] != "" {
				t.Errorf("callback = %s, session %q; want %d and none", res.Status, v.jar["__Host-mcns"], tc.code)
			}
		})
	}
}

func TestNextStaysHere(t *testing.T) {
	t.Parallel()
	for _, next := range []string{"https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", ""} {
		v, _ := newVisitor(t)
		back := v.leave("/login?next=" + url.QueryEscape(next))
		if to := v.get(back.RequestURI()).Header.Get("Location"); to != "/" {
			t.Errorf("next=%q leads to %q, want /", next, to)
		}
	}
}

func FuzzSessionCookie(f *testing.F) {
	for _, s := range []string{"", "x", strings.Repeat("A", 43), "\x00", strings.Repeat("é", 43)} {
		f.Add(s)
	}
	v, _ := newVisitor(f)
	f.Fuzz(func(t *testing.T, value string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", "__Host-mcns="+value+"; __Host-mcns-login="+value+"; __Host-mcns-toast="+value)
		w := httptest.NewRecorder()
		v.h.ServeHTTP(w, r)
		if w.Code != 303 || w.Header().Get("Location") != "/login" {
			t.Errorf("cookie %q gives %d %s", value, w.Code, w.Body)
		}
	})
}
