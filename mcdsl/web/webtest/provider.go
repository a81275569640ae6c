// Package webtest lets tests sign in to a service's pages without MCIAS: a small OpenID provider that answers for the
// fake of mctest, over real TLS. Imported by tests only.
//
//	ca := mctest.NewCA(t)
//	idp := mctest.NewMCIAS(t, ca)
//	op := webtest.NewProvider(t, ca, idp)
//	key := op.KeyFile(t, "mcat")          // service key with an OIDC client, for [mcias] key_file
//	op.SignedIn("alice", mctest.Human("alice", "admin"))
//
// Whoever is sent to its authorize endpoint comes straight back as the person SignedIn named.
package webtest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/mctest"
)

const keyID = "test-rsa"

// Provider is a fake OpenID provider. Safe for concurrent use.
type Provider struct {
	URL string // issuer, also of the fake MCIAS

	idp *mctest.MCIAS
	key *rsa.PrivateKey

	mu      sync.Mutex // guards all below
	user    mctest.Claims
	name    string
	refuse  string            // error of the authorize endpoint
	secrets map[string]string // of clients
	codes   map[string]asked
	change  func(claims map[string]any)
	logouts []url.Values
}

// asked is what an authorization request said.
type asked struct{ client, redirect, challenge, nonce string }

// NewProvider starts a provider that ends with the test, and makes it the fake's issuer.
func NewProvider(t testing.TB, ca *mctest.CA, idp *mctest.MCIAS) *Provider {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	p := &Provider{URL: "https://" + net.JoinHostPort(mctest.Name, port), idp: idp, key: key, secrets: map[string]string{}, codes: map[string]asked{}}
	idp.Issuer = p.URL
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("GET /oidc/authorize", p.authorize)
	mux.HandleFunc("POST /oidc/token", p.token)
	mux.HandleFunc("GET /oidc/jwks", p.jwks)
	mux.HandleFunc("GET /oidc/logout", p.logout)
	srv := &http.Server{Handler: mux, TLSConfig: httpserver.TLSConfig(ca.Certificate(t, mctest.Name), "http/1.1"), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { _ = srv.Close() })
	return p
}

// KeyFile returns the path of a service key file that holds an OIDC client too.
func (p *Provider) KeyFile(t testing.TB, service string) string {
	t.Helper()
	p.mu.Lock()
	p.secrets[service] = "secret-of-" + service
	p.mu.Unlock()
	return p.idp.ServiceKey(t, service)
}

// SignedIn sets who comes back from the provider.
func (p *Provider) SignedIn(name string, c mctest.Claims) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name, p.user, p.refuse = name, c, ""
}

// Refuse makes the provider answer an authorization request with an OAuth error.
func (p *Provider) Refuse(code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = code
}

// Change alters the claims of ID tokens before they are signed; nil stops it.
func (p *Provider) Change(fn func(claims map[string]any)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.change = fn
}

// Logouts returns the parameters of each request to end the session.
func (p *Provider) Logouts() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]url.Values{}, p.logouts...)
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/oidc/authorize", "token_endpoint": p.URL + "/oidc/token",
		"jwks_uri": p.URL + "/oidc/jwks", "end_session_endpoint": p.URL + "/oidc/logout"})
}

func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := url.Values{"state": {q.Get("state")}, "iss": {p.URL}}
	switch {
	case q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" || p.secrets[q.Get("client_id")] == "":
		http.Error(w, "bad authorization request", http.StatusBadRequest)
		return
	case p.refuse != "":
		answer.Set("error", p.refuse)
	default:
		code := rand.Text()
		p.codes[code] = asked{q.Get("client_id"), q.Get("redirect_uri"), q.Get("code_challenge"), q.Get("nonce")}
		answer.Set("code", code)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+answer.Encode(), http.StatusSeeOther)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	id, sec, _ := r.BasicAuth()
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code"))
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	switch {
	case sec == "" || p.secrets[id] != sec:
		w.WriteHeader(http.StatusUnauthorized)
		writeJSON(w, map[string]any{"error": "invalid_client"})
		return
	case !ok, a.client != id, a.redirect != r.PostFormValue("redirect_uri"), base64.RawURLEncoding.EncodeToString(sum[:]) != a.challenge:
		w.WriteHeader(http.StatusBadRequest)
		writeJSON(w, map[string]any{"error": "invalid_grant"})
		return
	}
	access := rand.Text()
	p.idp.Grant(access, p.user.For(id))
	now := time.Now()
	claims := map[string]any{"iss": p.URL, "aud": id, "sub": "id-" + p.name, "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
		"nonce": a.nonce, "preferred_username": p.name, "name": p.name, "email": p.name + "@lab.example", "email_verified": true, "groups": []string{"admin"}}
	if p.change != nil {
		p.change(claims)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: p.key, KeyID: keyID}}, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	raw, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 600, "id_token": raw})
}

func (p *Provider) jwks(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &p.key.PublicKey, KeyID: keyID, Algorithm: "RS256", Use: "sig"}}})
}

func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.logouts = append(p.logouts, r.URL.Query())
	p.mu.Unlock()
	http.Redirect(w, r, r.URL.Query().Get("post_logout_redirect_uri"), http.StatusSeeOther)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is the test
}

// DialLoopback connects to the port of addr on this machine, whatever the name: the names of tests are all here.
func DialLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
}
