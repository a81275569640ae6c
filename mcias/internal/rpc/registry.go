package rpc

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/httpserver"

	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/mint"
)

// RegistryRules rule the token realm: public, its credential is the caller; throttled like every sign-in.
func RegistryRules() auth.Map {
	return auth.Map{
		"HTTP GET /registry/token":  auth.Public().Unsealed().Body(authBody),
		"HTTP POST /registry/token": auth.Public().Unsealed().Body(authBody),
	}
}

// RegistryRoutes registers the token realm of the container registry: a thin adapter over password check and mint.
func (s *Servers) RegistryRoutes(r chi.Router) {
	r.Get("/registry/token", s.registryGet)
	r.Post("/registry/token", s.registryPost)
}

// registryGet takes name and secret by Basic.
func (s *Servers) registryGet(w http.ResponseWriter, r *http.Request) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		httpserver.WriteError(w, r, fault.New(fault.Invalid, "the query is malformed"))
		return
	}
	name, secret, ok := r.BasicAuth()
	if !ok || len(r.Header.Values("Authorization")) != 1 {
		s.registryRefuse(w, r, fault.New(fault.Unauthenticated, "name and secret are needed").WithReason(auth.ReasonNoToken).WithNext("docker login"))
		return
	}
	s.registryToken(w, r, name, secret, q["service"], q["scope"])
}

// registryPost is the OAuth2 form that some clients try first. Form bodies are never logged.
func (s *Servers) registryPost(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		httpserver.WriteError(w, r, fault.New(fault.Invalid, "the form is malformed or too long"))
		return
	}
	if r.PostForm.Get("grant_type") != "password" {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "unsupported_grant_type", "error_description": "only grant_type=password is supported"})
		return
	}
	s.registryToken(w, r, r.PostForm.Get("username"), r.PostForm.Get("password"), r.PostForm["service"], r.PostForm["scope"])
}

// registryService is the one registry there is.
const registryService = "mcr"

func (s *Servers) registryToken(w http.ResponseWriter, r *http.Request, name, secret string, service, scope []string) {
	if len(service) > 1 || len(service) == 1 && service[0] != registryService {
		httpserver.WriteError(w, r, fault.Field1("service", "this realm serves mcr"))
		return
	}
	scopes, err := auth.ParseScopes(scope...)
	if err != nil {
		httpserver.WriteError(w, r, err)
		return
	}
	m, err := s.registryMint(r, name, secret, scopes)
	if err != nil {
		s.registryRefuse(w, r, err)
		return
	}
	now := s.Clock.Now()
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, map[string]any{"token": m.Token, "access_token": m.Token,
		"expires_in": max(60, int(m.Expires.Sub(now).Seconds())), "issued_at": now.UTC().Format(time.RFC3339)})
}

func (s *Servers) registryMint(r *http.Request, name, secret string, scopes []auth.Scope) (*mint.Minted, error) {
	at := authn.Attempt{Name: name, Password: secret, IP: auth.Client(r.Context()), UA: r.UserAgent()}
	return s.Minter.ForRegistry(r.Context(), s.Authn, at, scopes)
}

// registryRefuse adds the challenge that clients want to see.
func (s *Servers) registryRefuse(w http.ResponseWriter, r *http.Request, err error) {
	if fault.Is(err, fault.Unauthenticated) {
		w.Header().Set("WWW-Authenticate", `Basic realm="mcias"`)
	}
	httpserver.WriteError(w, r, err)
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}
