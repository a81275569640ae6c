package grpcserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/csrf"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/httpserver"
)

// routes builds the handler of REST, hand-written routes and pages, merges the rules, and returns every
// hand-written route as "GET /pattern" for the check.
func (s *Server) routes(rest http.Handler) ([]string, error) {
	rules, err := auth.Merge(s.conf.Rules, s.ownRules())
	if err != nil {
		return nil, err
	}
	s.rules = rules
	refuse := s.conf.RefuseRoute
	if refuse == nil {
		refuse = httpserver.WriteError
	}
	final := chi.NewRouter()
	type route struct {
		guard   guard
		handler http.Handler
	}
	var found []string
	handlers := map[string]route{}

	own, hand, pages := chi.NewRouter(), chi.NewRouter(), chi.NewRouter()
	s.ownRoutes(own)
	if s.conf.Routes != nil {
		s.conf.Routes(hand)
	}
	if s.conf.Pages != nil {
		s.conf.Pages.Mount(pages, s.conn)
	}
	for _, from := range []struct {
		router chi.Router
		guard  guard
	}{
		{own, guard{s: s, refuse: httpserver.WriteError}},
		{hand, guard{s: s, refuse: refuse}},
		{pages, guard{s: s, refuse: s.refusePage, pages: s.conf.Pages}},
	} {
		err := chi.Walk(from.router, func(method, pattern string, h http.Handler, mws ...func(http.Handler) http.Handler) error {
			pattern = cleanPattern(pattern)
			key := method + " " + pattern
			if slices.Contains(found, key) {
				return fmt.Errorf("route %s is registered twice", key)
			}
			found = append(found, key)
			g := from.guard
			g.pattern = pattern
			handlers[key] = route{g, chi.Chain(mws...).Handler(h)}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	var checked []string
	for _, key := range found {
		method, pattern, _ := strings.Cut(key, " ")
		_, hasGet := handlers["GET "+pattern]
		ruled := key
		if method == http.MethodHead && hasGet {
			ruled = "GET " + pattern // HEAD is ruled by its GET
		} else {
			checked = append(checked, key)
		}
		rt := handlers[key]
		rt.guard.key, rt.guard.rule = "HTTP "+ruled, rules["HTTP "+ruled]
		final.Method(method, pattern, rt.guard.wrap(rt.handler))
		if _, has := handlers["HEAD "+pattern]; method == http.MethodGet && !has {
			final.Method(http.MethodHead, pattern, rt.guard.wrap(rt.handler)) // net/http drops the body
		}
	}
	final.NotFound(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/"):
			httpserver.LimitBody(w, r, s.conf.MaxBody)
			rest.ServeHTTP(w, r)
		case s.conf.Pages != nil:
			s.refusePage(w, r, fault.New(fault.NotFound, "there is no page at this address").WithReason("NO_ROUTE"))
		default:
			refuse(w, r, fault.New(fault.NotFound, "no such resource").WithReason("NO_ROUTE"))
		}
	})
	final.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		var allow []string
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if final.Match(chi.NewRouteContext(), m, r.URL.Path) {
				allow = append(allow, m)
			}
		}
		w.Header().Set("Allow", strings.Join(allow, ", "))
		refuse(w, r, httpserver.WithStatus(http.StatusMethodNotAllowed,
			fault.New(fault.Invalid, "%s does not fit this resource", r.Method).WithReason("METHOD")))
	})
	s.web = final
	return checked, nil
}

// cleanPattern turns the pattern of mounted routers into the one a reader would write.
func cleanPattern(p string) string {
	for strings.Contains(p, "/*/") {
		p = strings.ReplaceAll(p, "/*/", "/")
	}
	return p
}

func (s *Server) refusePage(w http.ResponseWriter, r *http.Request, err error) {
	if s.conf.Pages == nil {
		httpserver.WriteError(w, r, err)
		return
	}
	s.conf.Pages.Refuse(w, r, err)
}

// guard is what stands before one hand-written route: the same checks as before an RPC.
type guard struct {
	s            *Server
	key, pattern string
	rule         auth.Rule
	refuse       RefuseFunc
	pages        Pages // nil = not a page
}

func (g guard) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		httpserver.SetRoute(r.Context(), g.pattern)
		call := auth.CallFrom(r.Context())
		if call == nil { // a handler tested without its edge
			call = &auth.Call{Origin: auth.Origin{Transport: auth.OverTLS, RequestID: httpserver.NewRequestID()}}
			r = r.WithContext(auth.Enter(r.Context(), call))
		}
		call.Method, call.Rule = g.key, g.rule
		if err := g.admit(call, r); err != nil {
			g.fail(w, r, err)
			return
		}
		max := g.rule.MaxBody
		if max == 0 {
			max = g.s.conf.MaxBody
		}
		httpserver.LimitBody(w, r, max)
		if d := deadline(g.rule, defaultDeadline); d > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), d)
			defer cancel()
			r = r.WithContext(ctx)
			rc, until := http.NewResponseController(w), time.Now().Add(d+time.Second)
			// Fail only where there is no connection under the writer: tests.
			_, _ = rc.SetReadDeadline(until), rc.SetWriteDeadline(until)
		}
		start := time.Now()
		rec, err := g.s.begin(r.Context(), call, r)
		if err != nil {
			g.fail(w, r, err)
			return
		}
		dw := &decided{ResponseWriter: w, guard: g, call: call, req: r}
		defer func() {
			p := recover()
			if p != nil {
				dw.status = http.StatusInternalServerError
			}
			g.s.end(r.Context(), rec, start, statusFault(dw.status))
			if p != nil {
				panic(p) // the edge logs and answers it
			}
		}()
		next.ServeHTTP(dw, r)
	})
}

func (g guard) admit(call *auth.Call, r *http.Request) error {
	if g.s.draining.Load() && g.pattern != "/healthz" && g.pattern != "/readyz" {
		return errDraining()
	}
	if g.pages != nil {
		if err := csrf.Check(r); err != nil {
			return err
		}
		if g.rule.Anonymous() || call.Caller.Known() {
			return g.s.check(call, "")
		}
		token, err := g.pages.Token(r)
		if err != nil {
			return err
		}
		return g.s.check(call, token)
	}
	bearer := ""
	if !g.rule.Anonymous() {
		var err error
		if bearer, err = auth.Bearer(r.Header.Values("Authorization")); err != nil {
			return err
		}
	}
	return g.s.check(call, bearer)
}

func (g guard) fail(w http.ResponseWriter, r *http.Request, err error) {
	if f := fault.From(err); f.Kind == fault.Internal {
		g.s.log.ErrorContext(r.Context(), "internal error", "method", g.key, "err", err.Error())
	}
	g.refuse(w, r, err)
}

// decided holds back an answer that policy did not decide about.
type decided struct {
	http.ResponseWriter
	guard  guard
	call   *auth.Call
	req    *http.Request
	status int
	void   bool // the handler's answer was replaced
}

// WriteHeader implements http.ResponseWriter.
func (d *decided) WriteHeader(code int) {
	if d.status != 0 || d.void {
		return
	}
	if code < 200 {
		d.ResponseWriter.WriteHeader(code)
		return
	}
	if err := d.call.MayAnswer(statusFault(code)); err != nil {
		d.void, d.status = true, http.StatusInternalServerError
		for k := range d.Header() {
			if k != "X-Request-Id" {
				d.Header().Del(k)
			}
		}
		d.guard.fail(d.ResponseWriter, d.req, err)
		return
	}
	d.status = code
	d.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (d *decided) Write(b []byte) (int, error) {
	if d.status == 0 {
		d.WriteHeader(http.StatusOK)
	}
	if d.void {
		return len(b), nil
	}
	return d.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (d *decided) Flush() {
	if d.status == 0 {
		d.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(d.ResponseWriter).Flush() // the client may be gone
}

// Unwrap lets http.ResponseController reach the connection.
func (d *decided) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// statusFault is the failure an HTTP status stands for, for audit and the decision rule.
func statusFault(code int) error {
	if code < 400 {
		return nil
	}
	kind := fault.Invalid
	for _, k := range []fault.Kind{fault.Unauthenticated, fault.Denied, fault.NotFound, fault.Conflict, fault.Exhausted,
		fault.Unavailable, fault.Timeout, fault.Internal} {
		if k.HTTPStatus() == code {
			kind = k
		}
	}
	if code >= 500 && kind == fault.Invalid {
		kind = fault.Internal
	}
	return fault.New(kind, "HTTP %d", code)
}
