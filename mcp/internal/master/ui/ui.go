// Package ui draws the master's pages. It is a client of the master's own gRPC, so a page gets the verdict that a
// command gets, and it decides nothing.
package ui

import (
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/web"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

//go:embed templates/*.html
var templates embed.FS

// Config returns what mcdsl/web needs of the pages.
func Config() web.Config {
	sub, err := fs.Sub(templates, "templates")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return web.Config{Templates: sub, Routes: routes, Funcs: map[string]any{"state": State, "severity": severity},
		Sections: []web.Link{{Name: "Services", URL: "/"}, {Name: "Nodes", URL: "/nodes"}}}
}

func routes(s *web.Site, r chi.Router, conn *grpc.ClientConn) {
	p := &pages{site: s, services: mcpv1.NewServicesClient(conn), insight: mcpv1.NewInsightClient(conn), nodes: mcpv1.NewNodesClient(conn)}
	r.Get("/", s.Page(p.home))
	r.Get("/services/{service}", s.Page(p.service))
	r.Get("/nodes", s.Page(p.list))
}

type pages struct {
	site     *web.Site
	services mcpv1.ServicesClient
	insight  mcpv1.InsightClient
	nodes    mcpv1.NodesClient
}

// State is the word a person reads for a service: off on purpose is not down, and what we can't see is unknown.
func State(s *mcpv1.Service) string {
	if d := s.GetDesired(); d == mcpv1.Desired_DESIRED_STOPPED || d == mcpv1.Desired_DESIRED_DOWN {
		return "stopped"
	}
	return word(s.GetState())
}

func word(s mcpv1.State) string {
	switch s {
	case mcpv1.State_STATE_HEALTHY:
		return "healthy"
	case mcpv1.State_STATE_CREATED, mcpv1.State_STATE_STARTING:
		return "starting"
	case mcpv1.State_STATE_UNHEALTHY:
		return "degraded"
	case mcpv1.State_STATE_EXITED, mcpv1.State_STATE_ABSENT:
		return "down"
	}
	return "unknown"
}

func severity(s mcpv1.Severity) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "SEVERITY_"))
}

// homeView sorts what needs somebody from what does not.
type homeView struct {
	*mcpv1.StatusResponse
	Todo []*mcpv1.Service
	Away []*mcpv1.NodeStatus
}

func (p *pages) home(w http.ResponseWriter, r *http.Request) error {
	res, err := p.insight.Status(r.Context(), &mcpv1.StatusRequest{})
	if err != nil {
		return err
	}
	v := homeView{StatusResponse: res}
	for _, s := range res.GetServices() {
		if w := State(s); w != "healthy" && w != "stopped" {
			v.Todo = append(v.Todo, s)
		}
	}
	for _, n := range res.GetNodes() {
		if n.GetState() != "ready" {
			v.Away = append(v.Away, n)
		}
	}
	return p.site.Render(w, r, "home.html", web.Page{Title: "Services", State: v.sentence(), Data: v})
}

func (v homeView) sentence() string {
	n := len(v.GetServices())
	switch {
	case len(v.GetNodes()) == 0:
		return "No node has joined yet."
	case len(v.Away) > 0:
		return fmt.Sprintf("%d of %d nodes can't be seen; what they run is unknown.", len(v.Away), len(v.GetNodes()))
	case n == 0:
		return "Nothing is deployed."
	case len(v.Todo) == 1:
		return fmt.Sprintf("1 of %d services needs you.", n)
	case len(v.Todo) > 1:
		return fmt.Sprintf("%d of %d services need you.", len(v.Todo), n)
	}
	return fmt.Sprintf("%d services, all as they should be.", n)
}

// componentView is one line of a service's page.
type componentView struct {
	*mcpv1.Component
	Word string
}

type serviceView struct {
	*mcpv1.Service
	Word       string
	Parts      []componentView
	Generation []*mcpv1.Generation
}

func (p *pages) service(w http.ResponseWriter, r *http.Request) error {
	name := chi.URLParam(r, "service")
	res, err := p.services.GetService(r.Context(), &mcpv1.GetServiceRequest{Service: name})
	if err != nil {
		return err
	}
	s := res.GetService()
	v := serviceView{Service: s, Word: State(s)}
	for _, c := range s.GetComponents() {
		v.Parts = append(v.Parts, componentView{c, word(c.GetState())})
	}
	// Without history the page still says what runs; a master that can't reach MCIAS has none.
	if h, err := p.services.History(r.Context(), &mcpv1.HistoryRequest{Service: name, PageSize: 10}); err == nil {
		v.Generation = h.GetGenerations()
	}
	return p.site.Render(w, r, "service.html", web.Page{Title: s.GetName(), State: v.sentence(),
		Crumbs: []web.Link{{Name: "Services", URL: "/"}, {Name: s.GetName()}}, Data: v})
}

func (v serviceView) sentence() string {
	at := fmt.Sprintf("Generation %d on node %s is %s.", v.GetGeneration(), v.GetNode(), v.Word)
	for _, c := range v.Parts {
		if c.Word != "healthy" && c.GetDetail() != "" && v.Word != "stopped" {
			return at + " " + c.GetName() + ": " + c.GetDetail()
		}
	}
	return at
}

func (p *pages) list(w http.ResponseWriter, r *http.Request) error {
	res, err := p.nodes.ListNodes(r.Context(), &mcpv1.ListNodesRequest{})
	if err != nil {
		return err
	}
	ready := 0
	for _, n := range res.GetNodes() {
		if n.GetState() == "ready" {
			ready++
		}
	}
	return p.site.Render(w, r, "nodes.html", web.Page{Title: "Nodes", Data: res.GetNodes(),
		State: fmt.Sprintf("%d of %d nodes are ready.", ready, len(res.GetNodes()))})
}
