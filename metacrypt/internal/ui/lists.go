package ui

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/web"
	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

// certList is what the list shows.
type certList struct {
	Rows   []certRow
	Search string
	Live   bool
	More   string // address of the next page
}

// certRow is a certificate with its state in a word.
type certRow struct {
	*metacryptv1.Certificate
	Word string
	Name string // the first name
	And  int    // how many more
}

func (p *pages) certificates(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	data := certList{Search: q.Get("q"), Live: q.Get("all") == ""}
	res, err := p.pki.ListCerts(r.Context(), &metacryptv1.ListCertsRequest{Search: data.Search, Live: data.Live, PageToken: q.Get("page")})
	if err != nil {
		return err
	}
	for _, c := range res.GetCertificates() {
		data.Rows = append(data.Rows, rowOf(c))
	}
	if t := res.GetNextPageToken(); t != "" {
		q.Set("page", t)
		data.More = "/certificates?" + q.Encode()
	}
	what := "live certificate"
	if !data.Live {
		what = "certificate"
	}
	state := fmt.Sprintf("%d %ss on this page.", len(data.Rows), what)
	if len(data.Rows) == 1 {
		state = "1 " + what + "."
	}
	return p.Render(w, r, "certificates.html", web.Page{Title: "Certificates", State: state, Data: &data})
}

func rowOf(c *metacryptv1.Certificate) certRow {
	row := certRow{Certificate: c, Word: "valid"}
	if ids := c.GetIdentifiers(); len(ids) > 0 {
		row.Name, row.And = ids[0], len(ids)-1
	}
	switch {
	case c.GetRevokedAt() != nil:
		row.Word = "revoked"
	case c.GetReplacedBy() != "":
		row.Word = "stopped"
	}
	return row
}

func (p *pages) certificate(w http.ResponseWriter, r *http.Request) error {
	res, err := p.pki.GetCert(r.Context(), &metacryptv1.GetCertRequest{Serial: chi.URLParam(r, "serial")})
	if err != nil {
		return err
	}
	row := rowOf(res.GetCertificate())
	return p.Render(w, r, "certificate.html", web.Page{Title: row.Name, Data: &row,
		Crumbs: []web.Link{{Name: "Certificates", URL: "/certificates?q=" + url.QueryEscape(row.Name)}, {Name: row.Name}}})
}

func (p *pages) rules(w http.ResponseWriter, r *http.Request) error {
	res, err := p.policy.List(r.Context(), &metacryptv1.PolicyListRequest{PageSize: 500})
	if err != nil {
		return err
	}
	n := len(res.GetRules())
	return p.Render(w, r, "policy.html", web.Page{Title: "Policy", Data: res.GetRules(),
		State: fmt.Sprintf("%d rules; the lowest number that matches decides, and without one the answer is no.", n)})
}

func (p *pages) slotList(w http.ResponseWriter, r *http.Request) error {
	res, err := p.slots.List(r.Context(), &metacryptv1.SlotsListRequest{})
	if err != nil {
		return err
	}
	return p.Render(w, r, "slots.html", web.Page{Title: "Slots", Data: res.GetSlots(),
		State: fmt.Sprintf("%d ways to open the seal.", len(res.GetSlots()))})
}
