package ui

import (
	"context"
	"net/http"

	"google.golang.org/grpc/metadata"

	"metacircular.net/mcdsl/web"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

// overview is what the first page shows.
type overview struct {
	Word   string // of the status language
	Status *metacryptv1.StatusResponse
	Soon   []*metacryptv1.Certificate // next to expire; empty for whoever may not list
	Issuer []*metacryptv1.Issuer
	Guest  bool // nobody is signed in
}

const (
	unsealed      = metacryptv1.SealState_SEAL_STATE_UNSEALED
	uninitialized = metacryptv1.SealState_SEAL_STATE_UNINITIALIZED
)

func word(s metacryptv1.SealState) string {
	switch s {
	case unsealed:
		return "healthy"
	case uninitialized:
		return "stopped"
	case metacryptv1.SealState_SEAL_STATE_SEALED:
		return "sealed"
	default:
		return "starting"
	}
}

func (p *pages) overview(w http.ResponseWriter, r *http.Request) error {
	st, err := p.system.Status(r.Context(), &metacryptv1.StatusRequest{})
	if err != nil {
		return err
	}
	data := overview{Word: word(st.GetState()), Status: st, Guest: p.User(r) == nil}
	page := web.Page{Title: "Keys", Data: &data}
	switch st.GetState() {
	case unsealed:
		page.State = "Unsealed. Certificates and secrets are served."
		if ctx, ok := p.asUser(r); ok {
			page.Action = &web.Action{Label: "Seal", URL: "/seal", CLI: "metacrypt seal"}
			if res, err := p.pki.ListIssuers(ctx, &metacryptv1.ListIssuersRequest{}); err == nil {
				data.Issuer = res.GetIssuers()
			}
			if res, err := p.pki.ListCerts(ctx, &metacryptv1.ListCertsRequest{Live: true, PageSize: 10}); err == nil {
				data.Soon = res.GetCertificates()
			}
		}
	case uninitialized:
		page.State = "No keys have been made yet."
	default:
		page.State = "Sealed. What was fetched before serves on; new certificates and secrets wait."
		page.Action = &web.Action{Label: "Unseal", URL: "/unseal", CLI: "metacrypt unseal"}
	}
	return p.Render(w, r, "overview.html", page)
}

// asUser returns a context whose calls are the signed-in user's. The page itself is public, so the server has looked at
// no session; a session that is over shows the page as to a stranger.
func (p *pages) asUser(r *http.Request) (context.Context, bool) {
	if p.User(r) == nil {
		return nil, false
	}
	token, err := p.Token(r)
	if err != nil || token == "" {
		return nil, false
	}
	return metadata.AppendToOutgoingContext(r.Context(), "authorization", "Bearer "+token), true
}

func unsealPage() web.Page { return web.Page{Title: "Unseal", Center: true, Form: web.NewForm()} }

func (p *pages) unsealForm(w http.ResponseWriter, r *http.Request) error {
	st, err := p.system.Status(r.Context(), &metacryptv1.StatusRequest{})
	if err != nil {
		return err
	}
	if st.GetState() == unsealed || st.GetState() == uninitialized {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return nil
	}
	page := unsealPage()
	page.Data = st
	return p.Render(w, r, "unseal.html", page)
}

func (p *pages) unseal(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return err
	}
	secret := []byte(r.PostForm.Get("secret"))
	kind := "password"
	if r.PostForm.Get("kind") == "recovery" {
		kind = "recovery"
	}
	_, err := p.system.Unseal(r.Context(), &metacryptv1.UnsealRequest{Proof: &metacryptv1.SlotProof{Kind: kind, Secret: secret}})
	if err != nil {
		page := unsealPage()
		if st, stErr := p.system.Status(r.Context(), &metacryptv1.StatusRequest{}); stErr == nil {
			page.Data = st
		}
		return p.refused(w, r, "unseal.html", page, err, "secret")
	}
	return p.Redirect(w, r, "/", "Unsealed.")
}

func (p *pages) sealForm(w http.ResponseWriter, r *http.Request) error {
	return p.Render(w, r, "seal.html", web.Page{Title: "Seal", Narrow: true, Crumbs: []web.Link{{Name: "Keys", URL: "/"}, {Name: "Seal"}},
		State: "Everything already handed out serves on; nothing new is signed or read until somebody unseals."})
}

func (p *pages) seal(w http.ResponseWriter, r *http.Request) error {
	if _, err := p.system.Seal(r.Context(), &metacryptv1.SealRequest{}); err != nil {
		return err
	}
	return p.Redirect(w, r, "/", "Sealed. It stays so, also after a restart, until a person unseals it.")
}
