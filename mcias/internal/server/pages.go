package server

import (
	"html/template"
	"net/http"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/web"

	"metacircular.net/mcias/internal/ui"
	"metacircular.net/mcias/internal/vault"
)

// pages puts the pages on the server: those of ui, and the forms of the OpenID Connect endpoints.
func pages(cfg *Config, c *Core, b *cli.Builder) error {
	u := ui.New(cfg.Issuer())
	c.OIDC.Draw(drawer{u})
	return b.Site(web.Config{Issuer: cfg.Issuer(), Sections: ui.Sections(), Templates: ui.Templates(), Identity: u,
		Funcs: template.FuncMap{"kinds": func() []string { return []string{"web", "native", "spa", "test", "service"} }},
		Routes: func(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
			u.Routes(s, r, conn)
			c.OIDC.PageRoutes(r)
		},
		Banner: func(*http.Request) *web.Banner {
			if c.Vault.Open() {
				return nil
			}
			return &web.Banner{State: vault.Sealed, Text: "Nobody can sign in until MCIAS is unsealed; what runs goes on.", CLI: "mcias unseal"}
		}})
}

// drawer lets ui draw for the endpoints, neither knowing the other.
type drawer struct{ u *ui.UI }

func (d drawer) Error(w http.ResponseWriter, r *http.Request, err error) { d.u.Error(w, r, err) }
func (d drawer) SignIn(w http.ResponseWriter, r *http.Request, next string) {
	d.u.ToSignIn(w, r, next)
}
func (d drawer) Consent(w http.ResponseWriter, r *http.Request, client, user string, scopes []string, request string) {
	d.u.Consent(w, r, client, user, scopes, request)
}
func (d drawer) Continue(w http.ResponseWriter, r *http.Request, target string) {
	d.u.GoOn(w, r, target)
}
func (d drawer) AskLogout(w http.ResponseWriter, r *http.Request, request string) {
	d.u.AskLogout(w, r, request)
}
func (d drawer) SignedOut(w http.ResponseWriter, r *http.Request) { d.u.SignedOut(w, r) }
