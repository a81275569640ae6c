package web

import (
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-chi/chi/v5"
	"google.golang.org/grpc"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/log"
)

// Link is a name with its address.
type Link struct {
	Name string
	URL  string
}

// Config says what a site shows.
type Config struct {
	Service   string // "mcns"
	Issuer    string // MCIAS's URL: where people sign in, and the one foreign target of our forms
	Nav       []Link // services in the top bar; nil = the core's, below the issuer's domain
	Sections  []Link // pages of this service, second line; the longest prefix of the path is marked
	Templates fs.FS  // *.html: each defines "content"; those whose name begins with _ are shared by all
	Funcs     template.FuncMap
	Identity  Identity // who uses the pages; nil = nobody signs in here
	Routes    func(s *Site, r chi.Router, conn *grpc.ClientConn)
	Banner    func(r *http.Request) *Banner // something about the whole service; nil = never
	Log       *slog.Logger
	Clock     clock.Clock
}

// Identity says who uses the pages. Login is the one for services; MCIAS brings its own.
type Identity interface {
	// Rules returns the rules of the routes that Mount adds.
	Rules() auth.Map
	// Mount adds the routes of signing in and out.
	Mount(s *Site, r chi.Router)
	// User returns who is signed in; nil = nobody.
	User(r *http.Request) *User
	// Token returns the platform token of the session, "" = no session.
	Token(r *http.Request) (string, error)
	// SignIn returns where to send a browser that must sign in, or sign in more strongly because of err.
	SignIn(r *http.Request, err error) string
}

// User is who the top bar names.
type User struct {
	Name    string
	Roles   []string
	Account string // page of the account and its passkeys; "" = none
	Logout  string // path of the form post that signs out
}

// Banner is a note about the whole service, above the content.
type Banner struct {
	State string // a word of the status language
	Text  string
	CLI   string
}

// Site is a service's pages.
type Site struct {
	cfg    Config
	pages  map[string]*template.Template
	static *static
	csp    string
}

// New parses the templates; a mistake in one is an error here, not at the first visit.
func New(cfg Config) (*Site, error) {
	if cfg.Service == "" {
		return nil, errors.New("web: no service name")
	}
	cfg.Log, cfg.Clock = log.Or(cfg.Log), clock.Or(cfg.Clock)
	origin := ""
	if cfg.Issuer != "" {
		u, err := url.Parse(cfg.Issuer)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("web: issuer %q is not an https URL", cfg.Issuer)
		}
		origin = u.Scheme + "://" + u.Host
		if cfg.Nav == nil {
			cfg.Nav = coreNav(u)
		}
	}
	s := &Site{cfg: cfg, csp: contentPolicy(origin)}
	var err error
	if s.static, err = loadStatic(); err != nil {
		return nil, err
	}
	if s.pages, err = s.parse(); err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	return s, nil
}

// Rules returns the rules of the routes this package and its identity bring. All are public: they are the way in.
func (s *Site) Rules() auth.Map {
	m := auth.Map{
		"HTTP GET /static/{file}": auth.Public(),
		"HTTP POST /theme":        auth.Public(),
	}
	if s.cfg.Identity != nil {
		maps.Copy(m, s.cfg.Identity.Rules())
	}
	return m
}

// Mount registers the routes; it is called by the server.
func (s *Site) Mount(r chi.Router, conn *grpc.ClientConn) {
	r = r.With(s.headers)
	r.Get("/static/{file}", s.static.serve)
	r.Post("/theme", s.theme)
	if s.cfg.Identity != nil {
		s.cfg.Identity.Mount(s, r)
	}
	if s.cfg.Routes != nil {
		s.cfg.Routes(s, r, conn)
	}
}

// Token returns the platform token of the request's session.
func (s *Site) Token(r *http.Request) (string, error) {
	if s.cfg.Identity == nil {
		return "", nil
	}
	return s.cfg.Identity.Token(r)
}

// User returns who is signed in, nil for nobody.
func (s *Site) User(r *http.Request) *User {
	if s.cfg.Identity == nil {
		return nil
	}
	return s.cfg.Identity.User(r)
}

// Page makes a handler of a function that may fail: the failure becomes an error page, or the way to the sign-in.
func (s *Site) Page(fn func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := fn(w, r); err != nil {
			s.Refuse(w, r, err)
		}
	}
}

// coreNav names the platform's services beside MCIAS.
func coreNav(issuer *url.URL) []Link {
	domain, ok := strings.CutPrefix(issuer.Host, "mcias.")
	if !ok {
		return nil
	}
	var nav []Link
	for _, svc := range []string{"mcp", "mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcat"} {
		nav = append(nav, Link{svc, "https://" + svc + "." + domain + "/"})
	}
	return nav
}
