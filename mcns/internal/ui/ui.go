// Package ui is MCNS's pages. They are clients of its own gRPC and get the verdict everybody gets.
package ui

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/web"

	mcnsv1 "metacircular.net/mcns/api/mcns/v1"
)

//go:embed templates/*.html
var templates embed.FS

// Rules are the rules of the pages: whoever is signed in may open them; what they show the RPCs decide.
func Rules() auth.Map {
	m := auth.Map{}
	for _, route := range []string{"GET /", "GET /zone", "GET /services", "GET /changes", "POST /record/add", "GET /record/delete", "POST /record/delete"} {
		m["HTTP "+route] = auth.Authenticated()
	}
	return m
}

type pages struct {
	site     *web.Site
	zones    mcnsv1.ZoneServiceClient
	records  mcnsv1.RecordServiceClient
	changes  mcnsv1.ChangeServiceClient
	services mcnsv1.RegistryServiceClient
	admin    mcnsv1.AdminServiceClient
}

// Config returns what mcdsl/web needs.
func Config() web.Config {
	sub, err := fs.Sub(templates, "templates")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return web.Config{Templates: sub,
		Sections: []web.Link{{Name: "Zones", URL: "/"}, {Name: "Services", URL: "/services"}, {Name: "Changes", URL: "/changes"}},
		Funcs:    map[string]any{"link": link},
		Routes: func(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
			p := &pages{site: s, zones: mcnsv1.NewZoneServiceClient(conn), records: mcnsv1.NewRecordServiceClient(conn),
				changes: mcnsv1.NewChangeServiceClient(conn), services: mcnsv1.NewRegistryServiceClient(conn), admin: mcnsv1.NewAdminServiceClient(conn)}
			r.Get("/", s.Page(p.overview))
			r.Get("/zone", s.Page(p.zone))
			r.Get("/services", s.Page(p.instances))
			r.Get("/changes", s.Page(p.history))
			r.Post("/record/add", s.Page(p.add))
			r.Get("/record/delete", s.Page(p.confirm))
			r.Post("/record/delete", s.Page(p.remove))
		}}
}

// link makes the address of a page: path, then name, value, name, value …
func link(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
	}
	return path + "?" + q.Encode()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (p *pages) overview(w http.ResponseWriter, r *http.Request) error {
	res, err := p.zones.ListZones(r.Context(), &mcnsv1.ListZonesRequest{PageSize: 200, PageToken: r.URL.Query().Get("page")})
	if err != nil {
		return err
	}
	st, err := p.admin.GetStatus(r.Context(), &mcnsv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	state := plural(len(res.GetZones()), "zone", "zones") + " you may read; all names are answered."
	if st.GetState() != "healthy" {
		state = "Degraded: " + st.GetDetail()
	}
	return p.site.Render(w, r, "zones.html", web.Page{Title: "Zones", State: state, Data: map[string]any{"Zones": res.GetZones(), "Next": res.GetNextPageToken(), "Status": st}})
}

type zoneView struct {
	Zone     *mcnsv1.Zone
	Records  []*mcnsv1.Record
	Warnings []*mcnsv1.Warning
	Next     string
	Name     string
}

func (p *pages) zone(w http.ResponseWriter, r *http.Request) error {
	return p.showZone(w, r, r.URL.Query().Get("zone"), nil)
}

func (p *pages) showZone(w http.ResponseWriter, r *http.Request, name string, form *web.Form) error {
	q := r.URL.Query()
	res, err := p.zones.GetZone(r.Context(), &mcnsv1.GetZoneRequest{Zone: name})
	if err != nil {
		return err
	}
	list, err := p.records.ListRecords(r.Context(), &mcnsv1.ListRecordsRequest{Zone: name, Name: q.Get("name"), PageSize: 200, PageToken: q.Get("page")})
	if err != nil {
		return err
	}
	check, err := p.zones.CheckZone(r.Context(), &mcnsv1.CheckZoneRequest{Zone: name})
	if err != nil {
		return err
	}
	z := res.GetZone()
	page := web.Page{Title: z.GetName(), Crumbs: []web.Link{{Name: "Zones", URL: "/"}}, Form: form,
		State: plural(int(z.GetRecords()), "record", "records") + fmt.Sprintf(", serial %d.", z.GetSerial()),
		Data:  zoneView{Zone: z, Records: list.GetRecords(), Warnings: check.GetWarnings(), Next: list.GetNextPageToken(), Name: q.Get("name")}}
	if form != nil {
		page.Status = http.StatusUnprocessableEntity
	} else {
		page.Form = web.NewForm("type", "A")
	}
	return p.site.Render(w, r, "zone.html", page)
}

func (p *pages) add(w http.ResponseWriter, r *http.Request) error {
	name := r.PostFormValue("zone")
	res, err := p.records.CreateRecord(r.Context(), &mcnsv1.CreateRecordRequest{Zone: name, Name: r.PostFormValue("name"),
		Type: r.PostFormValue("type"), Value: r.PostFormValue("value"), Reason: "added on the page"})
	if err != nil {
		if form := web.Refused(r, err); form != nil {
			return p.showZone(w, r, name, form)
		}
		return err
	}
	rec := res.GetRecord()
	return p.site.Redirect(w, r, link("/zone", "zone", name), fmt.Sprintf("Added %s %s %s.", rec.GetName(), rec.GetType(), rec.GetValue()))
}

func (p *pages) confirm(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	res, err := p.records.GetRecord(r.Context(), &mcnsv1.GetRecordRequest{Zone: q.Get("zone"), Id: q.Get("id")})
	if err != nil {
		return err
	}
	return p.site.Render(w, r, "delete.html", web.Page{Title: "Delete record", Narrow: true, Data: res.GetRecord(),
		Crumbs: []web.Link{{Name: "Zones", URL: "/"}, {Name: res.GetRecord().GetZone(), URL: link("/zone", "zone", res.GetRecord().GetZone())}}})
}

func (p *pages) remove(w http.ResponseWriter, r *http.Request) error {
	name := r.PostFormValue("zone")
	if _, err := p.records.DeleteRecord(r.Context(), &mcnsv1.DeleteRecordRequest{Zone: name, Id: r.PostFormValue("id"), Reason: "deleted on the page"}); err != nil {
		return err
	}
	return p.site.Redirect(w, r, link("/zone", "zone", name), "Deleted the record.")
}

func (p *pages) instances(w http.ResponseWriter, r *http.Request) error {
	res, err := p.services.ListInstances(r.Context(), &mcnsv1.ListInstancesRequest{PageSize: 500})
	if err != nil {
		return err
	}
	stale := 0
	for _, l := range res.GetLeases() {
		if l.GetState() == "stale" {
			stale++
		}
	}
	state := plural(len(res.GetLeases()), "instance", "instances") + " registered."
	if stale > 0 {
		state += " " + plural(stale, "has", "have") + " not been renewed in time."
	}
	return p.site.Render(w, r, "services.html", web.Page{Title: "Services", State: state, Data: res.GetLeases()})
}

func (p *pages) history(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	res, err := p.changes.ListChanges(r.Context(), &mcnsv1.ListChangesRequest{Zone: q.Get("zone"), PageSize: 100, PageToken: q.Get("page")})
	if err != nil {
		return err
	}
	state := "Nothing has changed yet."
	if len(res.GetChanges()) > 0 {
		state = "Newest first."
	}
	return p.site.Render(w, r, "changes.html", web.Page{Title: "Changes", State: state, Data: res})
}
