package web

import (
	"net/http"
)

// contentPolicy is the Content-Security-Policy of pages. Chromium applies form-action to the redirect after a form
// post too, so the issuer must be in it or the logout form dies silently.
func contentPolicy(issuerOrigin string) string {
	action := "'self'"
	if issuerOrigin != "" {
		action += " " + issuerOrigin
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"base-uri 'none'; frame-ancestors 'none'; form-action " + action
}

// headers sets what every answer of a page route carries.
func (s *Site) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.setHeaders(w)
		next.ServeHTTP(w, r)
	})
}

func (s *Site) setHeaders(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Security-Policy", s.csp)
	// no-referrer would turn the Origin of our own form posts into "null".
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Strict-Transport-Security", "max-age=31536000")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}
