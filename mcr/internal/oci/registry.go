package oci

import (
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcr/internal/cas"
	"metacircular.net/mcr/internal/disk"
	"metacircular.net/mcr/internal/policy"
	"metacircular.net/mcr/internal/store"
)

// Config says what a registry serves and how much it takes.
type Config struct {
	Store           *store.Store
	Blobs           *cas.Store
	Book            *policy.Book
	Disk            *disk.Gauge
	Realm           string        // URL where clients get their tokens; never taken from a request
	Service         string        // "mcr", the audience
	Grace           time.Duration // how long a lease lasts; renewed when half of it is over
	MaxManifest     int64
	UploadsPerOwner int
	UploadsTotal    int
	RequestsPerUser int // at once; 0 = 64
	Log             *slog.Logger
	Clock           clock.Clock
}

// Registry serves /v2/.
type Registry struct {
	Config
	writers writers
	busy    gate
	pulls   pulls
}

// New returns a registry.
func New(cfg Config) (*Registry, error) {
	if cfg.Store == nil || cfg.Blobs == nil || cfg.Book == nil || cfg.Disk == nil {
		return nil, errors.New("oci: Store, Blobs, Book and Disk are needed")
	}
	if cfg.Grace <= 0 || cfg.MaxManifest <= 0 || cfg.UploadsPerOwner <= 0 || cfg.UploadsTotal <= 0 {
		return nil, errors.New("oci: Grace, MaxManifest and the upload limits are needed")
	}
	if cfg.RequestsPerUser == 0 {
		cfg.RequestsPerUser = 64
	}
	cfg.Log, cfg.Clock = log.Or(cfg.Log), clock.Or(cfg.Clock)
	g := &Registry{Config: cfg}
	g.busy.max = cfg.RequestsPerUser
	return g, nil
}

// Rules are the rules of the routes. Pull, push and tag have the normal budget, delete the privileged one.
// Bodies and times are bounded by progress, not in all: a large layer may take hours.
func Rules() auth.Map {
	open := func(action string) auth.Rule { return auth.Policy(action).WithScoped().Body(-1).Within(-1) }
	target := func(req any) string {
		if r, ok := req.(*http.Request); ok {
			return auditTarget(r)
		}
		return ""
	}
	return auth.Map{
		"HTTP GET /v2/*":    open("pull"),
		"HTTP POST /v2/*":   open("push"),
		"HTTP PATCH /v2/*":  open("push"),
		"HTTP PUT /v2/*":    open("push").Audited(target),
		"HTTP DELETE /v2/*": open("delete").Privileged().Audited(target),
	}
}

// auditTarget names what a request is about. An upload's id stays out: whoever knows it may write.
func auditTarget(r *http.Request) string {
	t, err := requestTarget(r)
	if err != nil {
		return ""
	}
	if t.end == endUpload || t.end == endUploads {
		return t.repo + " upload " + r.URL.Query().Get("digest")
	}
	return t.repo + " " + t.ref
}

// Routes registers the routes.
func (g *Registry) Routes(r chi.Router) {
	h := g.handle
	r.Get("/v2/*", h)
	r.Head("/v2/*", h)
	r.Post("/v2/*", h)
	r.Patch("/v2/*", h)
	r.Put("/v2/*", h)
	r.Delete("/v2/*", h)
}

// handle parses the path, runs the one handler it means, and writes what that returns.
func (g *Registry) handle(w http.ResponseWriter, r *http.Request) {
	setVersion(w)
	if err := g.serve(w, r); err != nil {
		g.Refuse(w, r, err)
	}
}

func (g *Registry) serve(w http.ResponseWriter, r *http.Request) error {
	t, err := requestTarget(r)
	if err != nil {
		return undecided(r, pathError(err))
	}
	caller := auth.From(r.Context())
	if !g.busy.enter(caller.Subject) {
		return errTooMany(g.busy.max)
	}
	defer g.busy.leave(caller.Subject)
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch t.end {
	case endBase:
		if read {
			return g.base(w, r)
		}
	case endCatalog:
		if read {
			return g.catalog(w, r)
		}
	case endTags:
		if read {
			return g.tags(w, r, t)
		}
	case endReferrers:
		if read {
			return g.referrers(w, r, t)
		}
	case endBlob:
		switch {
		case read:
			return g.getBlob(w, r, t)
		case r.Method == http.MethodDelete:
			return g.deleteBlob(w, r, t)
		}
	case endUploads:
		if r.Method == http.MethodPost {
			return g.startUpload(w, r, t)
		}
	case endUpload:
		return g.upload(w, r, t)
	case endManifest:
		switch {
		case read:
			return g.getManifest(w, r, t)
		case r.Method == http.MethodPut:
			return g.putManifest(w, r, t)
		case r.Method == http.MethodDelete:
			return g.deleteManifest(w, r, t)
		}
	}
	return undecided(r, errMethod(r.Method))
}

// undecided answers what no policy is asked about, because the request means nothing.
func undecided(r *http.Request, e *Error) error {
	if err := auth.Decide(r.Context(), "route", "/v2/", true, "the path or method means nothing here"); err != nil {
		return err
	}
	return e
}

func (g *Registry) upload(w http.ResponseWriter, r *http.Request, t target) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return g.uploadStatus(w, r, t)
	case http.MethodPatch:
		return g.patchUpload(w, r, t)
	case http.MethodPut:
		return g.finishUpload(w, r, t)
	case http.MethodDelete:
		return g.cancelUpload(w, r, t)
	}
	return undecided(r, errMethod(r.Method))
}

// base tells a client that its token is good; docker's login asks nothing else.
func (g *Registry) base(w http.ResponseWriter, r *http.Request) error {
	if err := auth.Decide(r.Context(), "login", "/v2/", true, "any verified caller"); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte("{}"))
	return nil
}

func setVersion(w http.ResponseWriter) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
}

// gate bounds the requests of one subject at once.
type gate struct {
	mu   sync.Mutex
	max  int
	open map[string]int // subjects with requests now; empty ones leave the map
}

func (g *gate) enter(subject string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == nil {
		g.open = map[string]int{}
	}
	if g.open[subject] >= g.max {
		return false
	}
	g.open[subject]++
	return true
}

func (g *gate) leave(subject string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[subject]--; g.open[subject] <= 0 {
		delete(g.open, subject)
	}
}
