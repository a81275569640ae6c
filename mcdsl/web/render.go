package web

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed templates/*.html
var layoutFiles embed.FS

// Action is the one next thing of a page, with its command line twin.
type Action struct {
	Label string
	URL   string
	CLI   string
}

// Page is what a template shows. In templates: .Title, .State, .Data, .Form; the layout draws the head.
type Page struct {
	Title  string // heading and tab
	State  string // one sentence that answers the question of the page
	Crumbs []Link // below the second level
	Action *Action
	Center bool // a page of one small form: no head, content in the middle
	Narrow bool // prose and confirmations
	Status int  // HTTP status; 0 = 200
	Data   any
	Form   *Form  // what was typed and what is wrong with it
	Mark   string // name of the row that just changed
}

// view is what the layout sees: the page and its surroundings.
type view struct {
	Page
	Service  string
	Nav      []navLink
	Sections []navLink
	User     *User
	Theme    string
	Toast    string
	Banner   *Banner
	Domain   string
	Path     string
}

type navLink struct {
	Link
	Current bool
}

// parse makes one template set per page: layout, components, the service's shared files, the page.
func (s *Site) parse() (map[string]*template.Template, error) {
	base, err := template.New("base").Funcs(s.funcs()).Funcs(s.cfg.Funcs).ParseFS(layoutFiles, "templates/layout.html", "templates/components.html")
	if err != nil {
		return nil, err
	}
	pages := map[string]*template.Template{}
	own, err := layoutFiles.ReadFile("templates/error.page.html")
	if err != nil {
		return nil, err
	}
	if pages["error.page.html"], err = clone(base, "error.page.html", own); err != nil {
		return nil, err
	}
	if s.cfg.Templates == nil {
		return pages, nil
	}
	var names []string
	err = fs.WalkDir(s.cfg.Templates, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(name, ".html") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		data, err := fs.ReadFile(s.cfg.Templates, name)
		if err != nil {
			return nil, err
		}
		if _, err := base.New(path.Base(name)).Parse(string(data)); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		data, err := fs.ReadFile(s.cfg.Templates, name)
		if err != nil {
			return nil, err
		}
		if pages[path.Base(name)], err = clone(base, path.Base(name), data); err != nil {
			return nil, err
		}
	}
	return pages, nil
}

func clone(base *template.Template, name string, data []byte) (*template.Template, error) {
	t, err := base.Clone()
	if err != nil {
		return nil, err
	}
	return t.New(name).Parse(string(data))
}

// Render writes a page. With htmx asking for a fragment only the content is written; it is the same template.
func (s *Site) Render(w http.ResponseWriter, r *http.Request, name string, p Page) error {
	t := s.pages[name]
	if t == nil {
		return fmt.Errorf("web: no template %q", name)
	}
	v := s.view(w, r, p)
	root := "layout"
	if r.Header.Get("HX-Request") == "true" && r.Header.Get("HX-Boosted") != "true" && r.Header.Get("HX-History-Restore-Request") != "true" {
		root = "main"
	}
	var buf bytes.Buffer
	if err := t.ExecuteTemplate(&buf, root, v); err != nil {
		return fmt.Errorf("web: draw %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Add("Vary", "HX-Request")
	status := p.Status
	if status == 0 {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	_, _ = buf.WriteTo(w) // the client is gone if this fails
	return nil
}

func (s *Site) view(w http.ResponseWriter, r *http.Request, p Page) view {
	v := view{Page: p, Service: s.cfg.Service, User: s.User(r), Theme: themeOf(r), Path: r.URL.Path, Toast: s.takeToast(w, r)}
	for _, l := range s.cfg.Nav {
		v.Nav = append(v.Nav, navLink{l, l.Name == s.cfg.Service})
	}
	best := -1
	for i, l := range s.cfg.Sections {
		v.Sections = append(v.Sections, navLink{Link: l})
		if under(r.URL.Path, l.URL) && (best < 0 || len(l.URL) > len(s.cfg.Sections[best].URL)) {
			best = i
		}
	}
	if best >= 0 {
		v.Sections[best].Current = true
	}
	if s.cfg.Banner != nil {
		v.Banner = s.cfg.Banner(r)
	}
	if _, host, ok := strings.Cut(s.cfg.Issuer, "://mcias."); ok {
		v.Domain, _, _ = strings.Cut(host, ":")
	}
	return v
}

// under reports whether a path belongs to a section.
func under(p, section string) bool {
	if section == "/" {
		return p == "/"
	}
	return p == section || strings.HasPrefix(p, strings.TrimSuffix(section, "/")+"/")
}
