package server_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/fault"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"
)

const (
	callback = "https://gitea.mc.localhost/callback"
	verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)

func challenge(v string) string {
	h := sha256.Sum256([]byte(v))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// params are those of a good authorize request, edited.
func params(client string, edit ...string) url.Values {
	v := url.Values{"response_type": {"code"}, "client_id": {client}, "redirect_uri": {callback}, "scope": {"openid profile email groups offline_access"},
		"state": {"s1"}, "nonce": {"n1"}, "code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"}}
	for i := 0; i+1 < len(edit); i += 2 {
		if edit[i+1] == "-" {
			v.Del(edit[i])
		} else {
			v.Set(edit[i], edit[i+1])
		}
	}
	return v
}

// app is a confidential client with its secret.
func (p *platform) app(id string, allow ...string) (secret string) {
	p.t.Helper()
	res, err := mciasv1.NewClientClient(p.local).Create(p.t.Context(), &mciasv1.ClientCreateRequest{Id: id, Kind: "web", RedirectUris: []string{callback},
		PostLogoutUris: []string{"https://gitea.mc.localhost/bye"}, Allow: allow})
	if err != nil {
		p.t.Fatal(err)
	}
	return res.GetClientSecret()
}

// code walks a signed-in browser through authorize and consent and returns the code.
func (p *platform) code(c *http.Client, v url.Values) string {
	p.t.Helper()
	res, body := p.do(c, "GET", "/oidc/authorize?"+v.Encode(), nil)
	if res.StatusCode == 200 && strings.Contains(body, "/oidc/consent") {
		res, _ = p.do(c, "POST", "/oidc/consent", url.Values{"request": {v.Encode()}, "answer": {"allow"}})
		to, _ := strings.CutPrefix(res.Header.Get("Refresh"), "0; url=")
		res, body = p.do(c, "GET", to, nil)
	}
	to, err := url.Parse(res.Header.Get("Location"))
	if err != nil || res.StatusCode != 303 || !strings.HasPrefix(to.String(), callback+"?") {
		p.t.Fatalf("authorize: %s to %q\n%s", res.Status, res.Header.Get("Location"), body)
	}
	q := to.Query()
	if q.Get("state") != v.Get("state") || q.Get("iss") != p.issuer {
		p.t.Errorf("the answer's state and iss: %v", q)
	}
	return q.Get("code")
}

func basic(id, secret string) func(*http.Request) {
	return func(r *http.Request) {
		r.SetBasicAuth(id, secret)
		r.Header.Del("Sec-Fetch-Site")
	}
}

func (p *platform) exchange(c *http.Client, id, secret, code string, edit ...string) (int, map[string]any) {
	p.t.Helper()
	v := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback}, "code_verifier": {verifier}}
	for i := 0; i+1 < len(edit); i += 2 {
		v.Set(edit[i], edit[i+1])
	}
	res, body := p.do(c, "POST", "/oidc/token", v, basic(id, secret))
	if res.Header.Get("Cache-Control") != "no-store" {
		p.t.Error("a token answer may be stored")
	}
	return res.StatusCode, decode(p.t, body)
}

func (p *platform) userinfo(c *http.Client, tok string) (int, string) {
	p.t.Helper()
	res, body := p.do(c, "GET", "/oidc/userinfo", nil, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+tok) })
	return res.StatusCode, body
}

func TestOIDC(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	p.person("bob", bobPassword, "user")
	p.person("eve", bobPassword, "guest")
	secret := p.app("gitea", "role:user")
	other := p.app("wiki", "role:user")
	b := p.browser()

	// Without a session: the sign-in page, and from there back.
	res, _ := p.do(b, "GET", "/oidc/authorize?"+params("gitea").Encode(), nil)
	if to := res.Header.Get("Location"); res.StatusCode != 303 || !strings.HasPrefix(to, "/login?next=%2Foidc%2Fauthorize") {
		t.Fatalf("without session: %s to %s", res.Status, to)
	}
	if res, _ := p.do(b, "GET", "/oidc/authorize?"+params("gitea", "prompt", "none").Encode(), nil); !strings.Contains(res.Header.Get("Location"), "error=login_required") {
		t.Errorf("prompt none without session: %s", res.Header.Get("Location"))
	}
	p.signIn(b, "bob", bobPassword)
	if res, _ := p.do(b, "GET", "/oidc/authorize?"+params("gitea", "prompt", "none").Encode(), nil); !strings.Contains(res.Header.Get("Location"), "error=consent_required") {
		t.Errorf("prompt none without consent: %s", res.Header.Get("Location"))
	}
	status, out := p.exchange(b, "gitea", secret, p.code(b, params("gitea")))
	if status != 200 {
		t.Fatalf("exchange: %d %v", status, out)
	}
	p.checkIDToken(b, out["id_token"].(string))
	access, refresh := out["access_token"].(string), out["refresh_token"].(string)
	if status, body := p.userinfo(b, access); status != 200 || !strings.Contains(body, `"preferred_username":"bob"`) || !strings.Contains(body, `"email":"bob@mc.localhost"`) {
		t.Errorf("userinfo: %d %s", status, body)
	}
	for _, bad := range []string{access[:len(access)-1], access + "A", "", refresh} {
		if status, _ := p.userinfo(b, bad); status != 401 {
			t.Errorf("userinfo with %q: %d, want 401", bad, status)
		}
	}
	if res, body := p.do(b, "POST", "/oidc/introspect", url.Values{"token": {access}}, basic("gitea", secret)); res.StatusCode != 200 || !strings.Contains(body, `"active":true`) {
		t.Errorf("introspect: %s %s", res.Status, body)
	}
	if _, body := p.do(b, "POST", "/oidc/introspect", url.Values{"token": {access}}, basic("wiki", other)); !strings.Contains(body, `"active":false`) {
		t.Errorf("introspect by another client: %s", body)
	}

	// Three rotations, then reuse kills the family.
	first := refresh
	for range 3 {
		res, body := p.do(b, "POST", "/oidc/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}, basic("gitea", secret))
		if res.StatusCode != 200 {
			t.Fatalf("refresh: %s %s", res.Status, body)
		}
		out = decode(t, body)
		refresh, access = out["refresh_token"].(string), out["access_token"].(string)
	}
	if res, _ := p.do(b, "POST", "/oidc/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}}, basic("wiki", other)); res.StatusCode != 400 {
		t.Errorf("another client's refresh token: %s", res.Status)
	}
	if res, _ := p.do(b, "POST", "/oidc/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first}}, basic("gitea", secret)); res.StatusCode != 400 {
		t.Errorf("refresh token used twice: %s", res.Status)
	}
	if status, _ := p.userinfo(b, access); status != 401 {
		t.Errorf("access token after reuse of its family: %d, want 401", status)
	}

	t.Run("codes", func(t *testing.T) { p.codes(t, b, secret, other) })
	t.Run("authorize", func(t *testing.T) { p.badAuthorize(t, b) })
	t.Run("denied", func(t *testing.T) {
		e := p.browser()
		p.signIn(e, "eve", bobPassword)
		res, body := p.do(e, "GET", "/oidc/authorize?"+params("gitea").Encode(), nil)
		if res.StatusCode != 403 || !strings.Contains(body, "no rule allows it") || !strings.Contains(body, "req ") || res.Header.Get("Location") != "" {
			t.Errorf("denied: %s\n%s", res.Status, body)
		}
	})
	t.Run("logout", func(t *testing.T) { p.signOut(t, b, secret) })
}

func (p *platform) checkIDToken(c *http.Client, raw string) {
	p.t.Helper()
	_, body := p.do(c, "GET", "/oidc/jwks", nil)
	tok, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		p.t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(body), &set); err != nil {
		p.t.Fatal(err)
	}
	var cl map[string]any
	if err := tok.Claims(set.Key(tok.Headers[0].KeyID)[0].Key, &cl); err != nil {
		p.t.Fatalf("ID token: %v", err)
	}
	if cl["iss"] != p.issuer || cl["aud"] != "gitea" || cl["nonce"] != "n1" || cl["acr"] != "mcias:pwd" || cl["preferred_username"] != "bob" {
		p.t.Errorf("ID token holds %v", cl)
	}
	// The families never mix: an ID token is no platform token.
	if _, err := mciasv1.NewAuthClient(p.public).ListSessions(as(p.t.Context(), raw), &mciasv1.ListSessionsRequest{}); !fault.Is(err, fault.Unauthenticated) {
		p.t.Errorf("an ID token as platform token: %v", err)
	}
}

func (p *platform) codes(t *testing.T, b *http.Client, secret, other string) {
	for name, tc := range map[string]struct {
		client, secret string
		edit           []string
		want           int
	}{
		"wrong verifier":        {"gitea", secret, []string{"code_verifier", strings.Repeat("x", 43)}, 400},
		"no verifier":           {"gitea", secret, []string{"code_verifier", ""}, 400},
		"short verifier":        {"gitea", secret, []string{"code_verifier", "short"}, 400},
		"another redirect":      {"gitea", secret, []string{"redirect_uri", callback + "/"}, 400},
		"another client":        {"wiki", other, nil, 400},
		"wrong secret":          {"gitea", other, nil, 401},
		"unknown client":        {"nope", secret, nil, 401},
		"another grant type":    {"gitea", secret, []string{"grant_type", "password"}, 400},
		"client_id of another":  {"gitea", secret, []string{"client_id", "wiki"}, 401},
		"two ways of secret":    {"gitea", secret, []string{"client_secret", secret}, 401},
		"token exchange":        {"gitea", secret, []string{"grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"}, 400},
		"jwt bearer assertions": {"gitea", secret, []string{"grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"}, 400},
	} {
		if status, out := p.exchange(b, tc.client, tc.secret, p.code(b, params("gitea")), tc.edit...); status != tc.want {
			t.Errorf("%s: %d %v, want %d", name, status, out, tc.want)
		}
	}
	// A replay is refused and kills what the first use gave.
	code := p.code(b, params("gitea"))
	status, out := p.exchange(b, "gitea", secret, code)
	if status != 200 {
		t.Fatal(status, out)
	}
	if status, _ := p.exchange(b, "gitea", secret, code); status != 400 {
		t.Errorf("code twice: %d", status)
	}
	if status, _ := p.userinfo(b, out["access_token"].(string)); status != 401 {
		t.Errorf("access token after code replay: %d, want 401", status)
	}
	v := url.Values{"grant_type": {"authorization_code", "authorization_code"}, "code": {"x"}}
	if res, _ := p.do(b, "POST", "/oidc/token", v, basic("gitea", secret)); res.StatusCode != 400 {
		t.Errorf("a parameter twice: %s", res.Status)
	}
	if res, _ := p.do(b, "POST", "/oidc/token?grant_type=authorization_code", url.Values{"code": {"x"}}, basic("gitea", secret)); res.StatusCode != 400 {
		t.Errorf("parameters in the query: %s", res.Status)
	}
	for _, path := range []string{"/oidc/token", "/oidc/userinfo"} {
		res, _ := p.do(b, "OPTIONS", path, nil, func(r *http.Request) {
			r.Header.Set("Origin", "https://evil.example")
			r.Header.Set("Access-Control-Request-Method", "POST")
		})
		if res.Header.Get("Access-Control-Allow-Origin") != "" || res.Header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s lets a foreign origin in: %v", path, res.Header)
		}
	}
}

// badAuthorize: what is wrong before the redirect URI is known good is a page; the rest goes back as an error.
func (p *platform) badAuthorize(t *testing.T, b *http.Client) {
	for name, edit := range map[string][]string{
		"unknown client":  {"client_id", "nope"},
		"no client":       {"client_id", "-"},
		"no redirect":     {"redirect_uri", "-"},
		"other host":      {"redirect_uri", "https://evil.example/callback"},
		"prefix":          {"redirect_uri", callback + "x"},
		"dots":            {"redirect_uri", "https://gitea.mc.localhost/x/../callback"},
		"query":           {"redirect_uri", callback + "?x=1"},
		"fragment":        {"redirect_uri", callback + "#x"},
		"userinfo":        {"redirect_uri", "https://x@gitea.mc.localhost/callback"},
		"case":            {"redirect_uri", "https://GITEA.mc.localhost/callback"},
		"port":            {"redirect_uri", "https://gitea.mc.localhost:443/callback"},
		"encoding":        {"redirect_uri", "https://gitea.mc.localhost/%63allback"},
		"scheme":          {"redirect_uri", "http://gitea.mc.localhost/callback"},
		"service account": {"client_id", "mcias"},
	} {
		res, _ := p.do(b, "GET", "/oidc/authorize?"+params("gitea", edit...).Encode(), nil)
		if res.StatusCode < 400 || res.Header.Get("Location") != "" {
			t.Errorf("%s: %s to %q, want an error page", name, res.Status, res.Header.Get("Location"))
		}
	}
	res, _ := p.do(b, "GET", "/oidc/authorize?"+params("gitea").Encode()+"&state=again", nil)
	if res.StatusCode < 400 || res.Header.Get("Location") != "" {
		t.Errorf("a parameter twice: %s, want an error page", res.Status)
	}
	for name, edit := range map[string][]string{
		"plain":           {"code_challenge_method", "plain"},
		"no method":       {"code_challenge_method", "-"},
		"no challenge":    {"code_challenge", "-"},
		"short challenge": {"code_challenge", "abc"},
		"padded":          {"code_challenge", challenge(verifier) + "="},
		"implicit":        {"response_type", "token"},
		"hybrid":          {"response_type", "code id_token"},
		"id_token":        {"response_type", "id_token"},
		"none":            {"response_type", "none"},
		"fragment mode":   {"response_mode", "fragment"},
		"form_post":       {"response_mode", "form_post"},
		"request object":  {"request", "a.b.c"},
		"request_uri":     {"request_uri", "https://evil.example/r"},
		"registration":    {"registration", "{}"},
		"no openid":       {"scope", "profile"},
		"prompt none+":    {"prompt", "none login"},
		"prompt unknown":  {"prompt", "select_account"},
		"max_age":         {"max_age", "-5"},
	} {
		res, _ := p.do(b, "GET", "/oidc/authorize?"+params("gitea", edit...).Encode(), nil)
		to := res.Header.Get("Location")
		if res.StatusCode != 303 || !strings.HasPrefix(to, callback+"?error=") && !strings.Contains(to, "error=") || strings.Contains(to, "code=") {
			t.Errorf("%s: %s to %q, want an error at the client", name, res.Status, to)
		}
	}
	// prompt=login and max_age ask for a newer proof, not for a new app sign-in.
	for _, edit := range [][]string{{"prompt", "login"}} {
		if res, _ := p.do(b, "GET", "/oidc/authorize?"+params("gitea", edit...).Encode(), nil); !strings.HasPrefix(res.Header.Get("Location"), "/login?next=") {
			t.Errorf("%v: to %q, want the sign-in", edit, res.Header.Get("Location"))
		}
	}
}

func (p *platform) signOut(t *testing.T, b *http.Client, secret string) {
	status, out := p.exchange(b, "gitea", secret, p.code(b, params("gitea")))
	if status != 200 {
		t.Fatal(status)
	}
	if res, body := p.do(b, "GET", "/oidc/logout", nil); res.StatusCode != 200 || !strings.Contains(body, "Sign out?") {
		t.Errorf("logout without a hint: %s, want a question", res.Status)
	}
	v := url.Values{"id_token_hint": {out["id_token"].(string)}, "post_logout_redirect_uri": {"https://evil.example/"}}
	if res, _ := p.do(b, "GET", "/oidc/logout?"+url.Values{"post_logout_redirect_uri": {"https://evil.example/"}}.Encode(), nil); res.Header.Get("Location") != "" {
		t.Error("logout redirects to a stranger")
	}
	v.Set("post_logout_redirect_uri", "https://gitea.mc.localhost/bye")
	v.Set("state", "z")
	res, _ := p.do(b, "GET", "/oidc/logout?"+v.Encode(), nil)
	if res.Header.Get("Location") != "https://gitea.mc.localhost/bye?state=z" {
		t.Errorf("logout: %s to %q", res.Status, res.Header.Get("Location"))
	}
	if status, _ := p.userinfo(b, out["access_token"].(string)); status != 401 {
		t.Errorf("access token after logout: %d, want 401", status)
	}
	if res, _ := p.do(b, "GET", "/account", nil); !strings.HasPrefix(res.Header.Get("Location"), "/login") {
		t.Errorf("account page after logout: %s", res.Status)
	}
}

func TestGrantMint(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	mcr, secret := p.service("mcr", []string{"core"}, callback)
	mcns, _ := p.service("mcns", []string{"core"}, "https://mcns.mc.localhost/login/callback")
	b := p.browser()
	p.signIn(b, "alice", adminPassword)
	status, out := p.exchange(b, "mcr", secret, p.code(b, params("mcr", "scope", "openid profile")))
	if status != 200 {
		t.Fatal(status, out)
	}
	access := out["access_token"].(string)
	req := func(a, access, id string, aud ...string) *mciasv1.MintRequest {
		g := &mciasv1.GrantCredential{Assertion: a, Proof: &mciasv1.GrantCredential_GrantId{GrantId: id}}
		if access != "" {
			g.Proof = &mciasv1.GrantCredential_AccessToken{AccessToken: access}
		}
		return &mciasv1.MintRequest{Credential: &mciasv1.MintRequest_Grant{Grant: g}, Audiences: aud}
	}
	first, err := p.mint(req(p.assertion(mcr), access, ""))
	if err != nil || first.GetGrantId() == "" || first.GetRuleId() != "admins-core" {
		t.Fatalf("Mint(grant) = %v, %v", first, err)
	}
	if _, err := p.mint(req(p.assertion(mcr), "", first.GetGrantId())); err != nil {
		t.Errorf("again by the grant's id: %v", err)
	}
	for name, r := range map[string]*mciasv1.MintRequest{
		"another service's key": req(p.assertion(mcns), access, ""),
		"another audience":      req(p.assertion(mcr), access, "", "mcns"),
		"unknown grant":         req(p.assertion(mcr), "", "nope"),
		"cut access token":      req(p.assertion(mcr), access[:20], ""),
		"no assertion":          req("", access, ""),
	} {
		if m, err := p.mint(r); err == nil {
			t.Errorf("%s: %v", name, m)
		}
	}
	if res, _ := p.do(b, "POST", "/logout", url.Values{}); res.StatusCode != 200 {
		t.Fatalf("logout: %s", res.Status)
	}
	if _, err := p.mint(req(p.assertion(mcr), "", first.GetGrantId())); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("grant after its session ended: %v", err)
	}
}

func TestRegistryToken(t *testing.T) {
	t.Parallel()
	p := newPlatform(t).ready()
	p.person("bob", bobPassword, "user")
	p.service("mcr", []string{"core"}, callback)
	c := p.browser()
	ask := func(name, secret, query string) (int, map[string]any) {
		res, body := p.do(c, "GET", "/registry/token?"+query, nil, func(r *http.Request) {
			if name != "" {
				r.SetBasicAuth(name, secret)
			}
		})
		return res.StatusCode, decode(t, body)
	}
	status, out := ask("alice", adminPassword, "service=mcr&scope=repository:team/blog:push,pull&scope=registry:catalog:*&client_id=docker")
	if status != 200 || out["token"] != out["access_token"] || out["expires_in"].(float64) < 60 {
		t.Fatalf("password: %d %v", status, out)
	}
	in, err := mciasv1.NewTokenClient(p.local).Introspect(t.Context(), &mciasv1.IntrospectRequest{Token: out["token"].(string)})
	if err != nil || !in.GetActive() || in.GetAudiences()[0] != "mcr" {
		t.Errorf("registry token = %v, %v", in, err)
	}
	tok := p.login("alice", adminPassword, "mcr").GetToken()
	for name, tc := range map[string]struct {
		user, secret string
		want         int
	}{
		"nobody":                  {"", "", 401},
		"wrong password":          {"alice", "x", 401},
		"platform token":          {"alice", tok, 200},
		"token of another":        {"bob", tok, 401},
		"registry token":          {"alice", out["token"].(string), 401},
		"a user no rule admits":   {"bob", bobPassword, 403},
		"token for somebody else": {"alice", p.login("alice", adminPassword, "mcias").GetToken(), 401},
	} {
		if status, out := ask(tc.user, tc.secret, "service=mcr"); status != tc.want {
			t.Errorf("%s: %d %v, want %d", name, status, out, tc.want)
		}
	}
	res, body := p.do(c, "POST", "/registry/token", url.Values{"grant_type": {"refresh_token"}})
	if res.StatusCode != 400 || !strings.Contains(body, "unsupported_grant_type") {
		t.Errorf("refresh: %s %s", res.Status, body)
	}
	res, _ = p.do(c, "POST", "/registry/token", url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {adminPassword}, "service": {"mcr"}})
	if res.StatusCode != 200 {
		t.Errorf("form: %s", res.Status)
	}
}
