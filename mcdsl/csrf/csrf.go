package csrf

import (
	"net/http"

	"metacircular.net/mcdsl/fault"
)

// Check returns nil if a request may have effects: its method is safe, or it started on this very origin.
func Check(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	// The standard library lets a request with neither header through, for old browsers and tools. Ours log in
	// by bearer token and never come here.
	if r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
		return refusal("the request does not say where it started")
	}
	var p http.CrossOriginProtection // no trusted origins and no bypass patterns, ever: CVE-2025-47910
	if err := p.Check(r); err != nil {
		return refusal("it started on another site")
	}
	return nil
}

// Protect wraps the handler of pages; deny answers what is refused.
func Protect(next http.Handler, deny func(http.ResponseWriter, *http.Request, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := Check(r); err != nil {
			deny(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refusal(why string) error {
	return fault.New(fault.Denied, "refused: %s", why).WithReason("CROSS_SITE").WithNext("open the page here and try again")
}
