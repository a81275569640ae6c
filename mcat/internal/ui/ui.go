// Package ui draws MCAT's page: who is signed in, what MCIAS's policy said when it minted the token, and the claims.
// It decides nothing and calls nobody but MCIAS, through the sign-in of mcdsl/web.
package ui

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/web"
)

//go:embed templates/*.html
var templates embed.FS

// Pages are MCAT's pages.
type Pages struct {
	login *web.Login
}

// New returns the pages; Use gives them the sign-in before they are served.
func New() *Pages { return &Pages{} }

// Use sets the sign-in whose sessions are shown.
func (p *Pages) Use(l *web.Login) { p.login = l }

// Config returns what mcdsl/web needs of them.
func (p *Pages) Config() web.Config {
	sub, err := fs.Sub(templates, "templates")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return web.Config{Templates: sub, Routes: p.routes}
}

func (p *Pages) routes(s *web.Site, r chi.Router, _ *grpc.ClientConn) {
	r.Get("/", s.Page(func(w http.ResponseWriter, r *http.Request) error { return p.home(s, w, r) }))
}

// home shows the session, renewed if its token was near its end, so that the decision is the newest.
func (p *Pages) home(s *web.Site, w http.ResponseWriter, r *http.Request) error {
	had := p.login.Session(r) != nil
	token, err := p.login.Token(r)
	if err != nil {
		return err
	}
	sess := p.login.Session(r)
	if token == "" || sess == nil {
		state := "You are not signed in."
		if had {
			state = "Your sign-in has ended at MCIAS."
		}
		return s.Render(w, r, "out.html", web.Page{Title: "Access tester", State: state})
	}
	st := sess.State()
	return s.Render(w, r, "in.html", web.Page{Title: "You are " + st.Name, State: sentence(st), Data: view(st)})
}

// sentence answers the question of the page.
func sentence(st web.SessionState) string {
	rule := st.Decision.Rule
	if rule == "" {
		return "MCIAS let you in to mcat."
	}
	return fmt.Sprintf("MCIAS let you in to mcat: rule %s allows it.", rule)
}

// pair is one line of a list of facts.
type pair struct {
	Name  string
	Value string
	Code  bool
	Time  time.Time
}

type inView struct {
	web.SessionState
	Must   []pair // obligations that are set
	Claims []pair
	ID     []pair
	Rules  []string
}

func view(st web.SessionState) inView {
	v := inView{SessionState: st, Rules: st.Decision.Rules}
	if len(v.Rules) == 0 && st.Decision.Rule != "" {
		v.Rules = []string{st.Decision.Rule}
	}
	d := st.Decision
	if d.RequireMFA {
		v.Must = append(v.Must, pair{Name: "Second factor", Value: "required"})
	}
	if d.RequirePasskey {
		v.Must = append(v.Must, pair{Name: "Passkey", Value: "required"})
	}
	if d.MaxAuthAge > 0 {
		v.Must = append(v.Must, pair{Name: "Sign-in not older than", Value: span(d.MaxAuthAge)})
	}
	if d.TokenTTL > 0 {
		v.Must = append(v.Must, pair{Name: "Token lives at most", Value: span(d.TokenTTL)})
	}
	c := st.Claims
	v.Claims = []pair{
		{Name: "iss", Value: c.Issuer, Code: true},
		{Name: "sub", Value: c.Subject, Code: true},
		{Name: "name", Value: c.Name, Code: true},
		{Name: "aud", Value: strings.Join(c.Audience, " "), Code: true},
		{Name: "typ", Value: c.Kind, Code: true},
		{Name: "roles", Value: list(c.Roles), Code: true},
		{Name: "tags", Value: list(c.Tags), Code: true},
		{Name: "amr", Value: list(c.AMR), Code: true},
		{Name: "auth_time", Time: c.AuthTime},
		{Name: "iat", Time: c.IssuedAt},
		{Name: "exp", Time: c.Expires},
		{Name: "sid", Value: c.SID, Code: true},
		{Name: "jti", Value: c.JTI, Code: true},
		{Name: "ep", Value: fmt.Sprint(c.Epoch), Code: true},
		{Name: "kid", Value: c.KeyID, Code: true},
	}
	v.ID = []pair{
		{Name: "sub", Value: st.Subject, Code: true},
		{Name: "preferred_username", Value: st.Name, Code: true},
		{Name: "email", Value: st.Email, Code: true},
		{Name: "groups", Value: list(st.Groups), Code: true},
	}
	return v
}

func list(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, " ")
}

func span(d time.Duration) string {
	if d%time.Hour == 0 {
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	if d%time.Minute == 0 {
		return fmt.Sprintf("%d min", int(d.Minutes()))
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}
