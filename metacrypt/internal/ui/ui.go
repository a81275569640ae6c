// Package ui draws the pages. It is a client of the service's own contract and knows no engine.
package ui

import (
	"embed"
	"io/fs"
	"net/http"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/web"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

//go:embed pages/*.html
var files embed.FS

// Rules returns the access rule of every page. Status and unsealing work with MCIAS away; the calls beneath decide.
func Rules() auth.Map {
	return auth.Map{
		"HTTP GET /":                      auth.Public(),
		"HTTP GET /unseal":                auth.Public(),
		"HTTP POST /unseal":               auth.Public(),
		"HTTP GET /seal":                  auth.Roles(auth.RoleAdmin),
		"HTTP POST /seal":                 auth.Roles(auth.RoleAdmin).Privileged(),
		"HTTP GET /certificates":          auth.Authenticated(),
		"HTTP GET /certificates/{serial}": auth.Authenticated(),
		"HTTP GET /policy":                auth.Roles(auth.RoleAdmin),
		"HTTP GET /slots":                 auth.Roles(auth.RoleAdmin),
	}
}

// Config returns the pages; the caller adds identity.
func Config() (web.Config, error) {
	sub, err := fs.Sub(files, "pages")
	if err != nil {
		return web.Config{}, err
	}
	return web.Config{Templates: sub, Routes: routes,
		Sections: []web.Link{{Name: "Overview", URL: "/"}, {Name: "Certificates", URL: "/certificates"}, {Name: "Policy", URL: "/policy"}, {Name: "Slots", URL: "/slots"}}}, nil
}

type pages struct {
	*web.Site
	system metacryptv1.SystemClient
	slots  metacryptv1.SlotsClient
	pki    metacryptv1.PKIClient
	policy metacryptv1.PolicyClient
}

func routes(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
	p := &pages{s, metacryptv1.NewSystemClient(conn), metacryptv1.NewSlotsClient(conn), metacryptv1.NewPKIClient(conn), metacryptv1.NewPolicyClient(conn)}
	r.Get("/", s.Page(p.overview))
	r.Get("/unseal", s.Page(p.unsealForm))
	r.Post("/unseal", s.Page(p.unseal))
	r.Get("/seal", s.Page(p.sealForm))
	r.Post("/seal", s.Page(p.seal))
	r.Get("/certificates", s.Page(p.certificates))
	r.Get("/certificates/{serial}", s.Page(p.certificate))
	r.Get("/policy", s.Page(p.rules))
	r.Get("/slots", s.Page(p.slotList))
}

// refused shows a form again, or returns err where a form is no answer.
func (p *pages) refused(w http.ResponseWriter, r *http.Request, name string, page web.Page, err error, secrets ...string) error {
	f := web.Refused(r, err, secrets...)
	if f == nil {
		// A wrong unseal secret is no missing login: the form says what happened.
		e := fault.From(err)
		if e.Kind != fault.Unauthenticated && e.Kind != fault.Exhausted || e.Reason == auth.ReasonNoToken {
			return err
		}
		f = web.NewForm()
		f.Problem, f.Next = e.Public(), e.Next
	}
	page.Form, page.Status = f, http.StatusUnprocessableEntity
	return p.Render(w, r, name, page)
}
