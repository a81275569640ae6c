package oidc

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/log"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/token"
	"metacircular.net/mcias/internal/vault"
)

// Lives.
const (
	codeLife   = 60 * time.Second
	accessLife = 10 * time.Minute
	idLife     = 10 * time.Minute
)

// maxForm bounds the body of a form.
const maxForm = 16 << 10

// Cookie is the name of the session cookie.
const Cookie = "__Host-mcias"

// Scopes that mean something; others are ignored, as the standard says.
var scopes = []string{"openid", "profile", "email", "groups", "offline_access"}

// Pages draws what a person sees on the way.
type Pages interface {
	// Error shows why it goes no further; never a redirect.
	Error(w http.ResponseWriter, r *http.Request, err error)
	// SignIn sends the browser to the sign-in page and from there to next, a path of ours.
	SignIn(w http.ResponseWriter, r *http.Request, next string)
	// Consent asks whether client may have scopes; the form posts request back to /oidc/consent.
	Consent(w http.ResponseWriter, r *http.Request, client, user string, scopes []string, request string)
	// Continue answers a form post with a page that goes on to target by GET.
	Continue(w http.ResponseWriter, r *http.Request, target string)
	// AskLogout asks before ending the session; the form posts request back to /oidc/logout.
	AskLogout(w http.ResponseWriter, r *http.Request, request string)
	// SignedOut says that it is done.
	SignedOut(w http.ResponseWriter, r *http.Request)
}

// Config of a Provider.
type Config struct {
	DB        *db.DB
	Clock     clock.Clock
	Log       *slog.Logger
	Keys      *token.Keys
	Vault     *vault.Vault
	Sessions  *session.Sessions
	Directory *directory.Directory
	Hub       *revoke.Hub
	Issuer    string
	// CheckClock refuses while the clock is behind.
	CheckClock func() error
}

// Provider serves the endpoints.
type Provider struct {
	Config
	pages Pages
}

// New returns a Provider; Draw sets its pages before it serves.
func New(cfg Config) *Provider {
	cfg.Clock, cfg.Log = clock.Or(cfg.Clock), log.Or(cfg.Log)
	return &Provider{Config: cfg}
}

// Draw sets who draws the pages.
func (p *Provider) Draw(pages Pages) { p.pages = pages }

// Routes registers the endpoints for programs.
func (p *Provider) Routes(r chi.Router) {
	r.Get("/.well-known/openid-configuration", p.discovery)
	r.Get("/oidc/jwks", p.jwks)
	r.Post("/oidc/token", p.token)
	r.Options("/oidc/token", p.preflight)
	r.Get("/oidc/userinfo", p.userinfo)
	r.Post("/oidc/userinfo", p.userinfo)
	r.Options("/oidc/userinfo", p.preflight)
	r.Post("/oidc/introspect", p.introspect)
	r.Post("/oidc/revoke", p.revoke)
}

// PageRoutes registers what a person sees: with the headers of pages, the forms behind their same-origin check.
func (p *Provider) PageRoutes(r chi.Router) {
	r.Get("/oidc/authorize", p.authorize)
	r.Get("/oidc/logout", p.logout)
	r.Post("/oidc/consent", p.consent)
	r.Post("/oidc/logout", p.logoutForm)
}

// Rules returns the rules of all routes: public, since each proves its caller in its own way.
func Rules() auth.Map {
	m := auth.Map{}
	for _, k := range []string{"GET /.well-known/openid-configuration", "GET /oidc/jwks", "GET /oidc/authorize", "POST /oidc/token",
		"OPTIONS /oidc/token", "GET /oidc/userinfo", "POST /oidc/userinfo", "OPTIONS /oidc/userinfo", "POST /oidc/introspect",
		"POST /oidc/revoke", "GET /oidc/logout", "POST /oidc/consent", "POST /oidc/logout"} {
		m["HTTP "+k] = auth.Public().Body(maxForm)
	}
	for _, k := range []string{"GET /oidc/authorize", "POST /oidc/token", "POST /oidc/consent"} {
		m["HTTP "+k] = m["HTTP "+k].Unsealed()
	}
	return m
}

// Discovery is what the provider advertises: exactly what works.
func (p *Provider) Discovery() map[string]any {
	u := func(path string) string { return p.Issuer + path }
	return map[string]any{
		"issuer":                                         p.Issuer,
		"authorization_endpoint":                         u("/oidc/authorize"),
		"token_endpoint":                                 u("/oidc/token"),
		"userinfo_endpoint":                              u("/oidc/userinfo"),
		"introspection_endpoint":                         u("/oidc/introspect"),
		"revocation_endpoint":                            u("/oidc/revoke"),
		"end_session_endpoint":                           u("/oidc/logout"),
		"jwks_uri":                                       u("/oidc/jwks"),
		"scopes_supported":                               scopes,
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          []string{"RS256"},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post", "none"},
		"introspection_endpoint_auth_methods_supported":  []string{"client_secret_basic", "client_secret_post"},
		"revocation_endpoint_auth_methods_supported":     []string{"client_secret_basic", "client_secret_post", "none"},
		"code_challenge_methods_supported":               []string{"S256"},
		"acr_values_supported":                           []string{"mcias:pwd", "mcias:mfa", "mcias:passkey"},
		"prompt_values_supported":                        []string{"none", "login", "consent"},
		"claims_supported":                               []string{"sub", "iss", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "sid", "at_hash", "name", "preferred_username", "email", "email_verified", "groups"},
		"authorization_response_iss_parameter_supported": true,
		"claims_parameter_supported":                     false,
		"request_parameter_supported":                    false,
		"request_uri_parameter_supported":                false,
	}
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) { p.public(w, p.Discovery()) }

func (p *Provider) jwks(w http.ResponseWriter, _ *http.Request) { p.public(w, p.Keys.JWKS()) }

// public writes a document that anybody may read and keep for five minutes.
func (p *Provider) public(w http.ResponseWriter, v any) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Cache-Control", "public, max-age=300")
	writeJSON(w, http.StatusOK, v)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}

// oauthError is a failure as RFC 6749 writes it.
type oauthError struct {
	status     int
	Code, Text string
}

func (e *oauthError) Error() string { return e.Code + ": " + e.Text }

func bad(code, text string) error { return &oauthError{http.StatusBadRequest, code, text} }

// fail answers a program.
func (p *Provider) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *oauthError
	if !errors.As(err, &e) {
		f := fault.From(err)
		switch f.Kind {
		case fault.Unavailable, fault.Exhausted:
			e = &oauthError{http.StatusServiceUnavailable, "temporarily_unavailable", f.Public()}
			httpserver.SetChallenge(w.Header(), r, f)
		case fault.Denied, fault.Unauthenticated:
			e = &oauthError{http.StatusBadRequest, "invalid_grant", f.Public()}
		case fault.Invalid:
			e = &oauthError{http.StatusBadRequest, "invalid_request", f.Public()}
		default:
			p.Log.ErrorContext(r.Context(), "oidc", log.Err(err))
			e = &oauthError{http.StatusInternalServerError, "server_error", "internal error"}
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	if e.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="mcias"`)
	}
	writeJSON(w, e.status, map[string]string{"error": e.Code, "error_description": e.Text})
}

// single returns the values of a query or form in which no name is given twice.
func single(v url.Values) (map[string]string, error) {
	out := make(map[string]string, len(v))
	for k, vs := range v {
		if len(vs) != 1 {
			return nil, bad("invalid_request", "a parameter is given twice")
		}
		out[k] = vs[0]
	}
	return out, nil
}

// query parses a query strictly.
func query(r *http.Request) (map[string]string, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, bad("invalid_request", "the query is malformed")
	}
	return single(v)
}

// form parses a form body strictly; parameters in the query are refused.
func form(r *http.Request) (map[string]string, error) {
	ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(ct), "application/x-www-form-urlencoded") {
		return nil, bad("invalid_request", "send a form (application/x-www-form-urlencoded)")
	}
	if r.URL.RawQuery != "" {
		return nil, bad("invalid_request", "parameters belong into the body")
	}
	if err := r.ParseForm(); err != nil {
		return nil, bad("invalid_request", "the form is malformed or too long")
	}
	return single(r.PostForm)
}

// client returns an enabled client; nil = unknown.
func (p *Provider) client(ctx context.Context, id string) (c *account.Client, err error) {
	err = p.DB.Read(ctx, func(v *db.View) error {
		c, err = store.ClientByID(v, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && !c.Enabled {
		return nil, nil
	}
	return c, err
}

// browser returns the session of the request's cookie, nil for none.
func (p *Provider) browser(r *http.Request) (*session.Live, error) {
	var value string
	for _, c := range r.Cookies() {
		if c.Name != Cookie {
			continue
		}
		if value != "" {
			return nil, nil // two of the name: trust neither
		}
		value = c.Value
	}
	if value == "" {
		return nil, nil
	}
	l, err := p.Sessions.BySecret(r.Context(), value)
	if fault.HasReason(err, "NO_SESSION") {
		return nil, nil
	}
	return l, err
}

// acr is the authentication context of a session's proof.
func acr(amr []string) string {
	has := map[string]bool{}
	for _, m := range amr {
		has[m] = true
	}
	switch {
	case has["pop"] && has["user"]:
		return "mcias:passkey"
	case has["mfa"]:
		return "mcias:mfa"
	}
	return "mcias:pwd"
}

// halfHash is at_hash: the left half of SHA-256 in base64url.
func halfHash(s string) string {
	h := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(h[:16])
}
