package web

import (
	"net/http"
	"strings"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
)

// errorView is what the error page shows: what happened, why as far as we may say, what to do, the reference.
type errorView struct {
	Message string
	Fields  []fault.Field
	Next    string
	Command bool // Next can be pasted
	SignIn  string
	Retry   bool // it comes back by itself
	Ref     string
}

// Refuse answers a request that was refused or failed: whoever must sign in is sent there, all others get an error
// page with the status of the fault.
func (s *Site) Refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.setHeaders(w)
	f := fault.From(err)
	signIn := ""
	if f.Kind == fault.Unauthenticated && s.cfg.Identity != nil {
		signIn = s.cfg.Identity.SignIn(r, err)
		if s.sendToSignIn(w, r, signIn) {
			return
		}
	}
	if f.Kind == fault.Internal && f.RequestID == "" {
		s.cfg.Log.ErrorContext(r.Context(), "page failed", "path", r.URL.Path, "err", err, "req_id", auth.RequestID(r.Context()))
	}
	ref := f.RequestID
	if ref == "" {
		ref = auth.RequestID(r.Context())
	}
	title, state := errorTitle(f.Kind)
	p := Page{Title: title, State: state, Status: pageStatus(f.Kind), Narrow: true,
		Data: errorView{Message: sentence(f.Public()), Fields: f.Fields, Next: f.Next, Command: isCommand(f.Next),
			SignIn: signIn, Retry: f.Kind.Retryable(), Ref: ref}}
	if rerr := s.Render(w, r, "error.page.html", p); rerr != nil {
		s.cfg.Log.ErrorContext(r.Context(), "error page failed", "err", rerr)
		http.Error(w, title, p.Status)
	}
}

// sendToSignIn redirects a browser that reads. A post is not redirected: what was typed would be lost without a word.
func (s *Site) sendToSignIn(w http.ResponseWriter, r *http.Request, to string) bool {
	if to == "" {
		return false
	}
	if r.Header.Get("HX-Request") == "true" {
		w.Header().Set("HX-Redirect", to)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return true
}

func pageStatus(k fault.Kind) int {
	if k == fault.Invalid {
		return http.StatusUnprocessableEntity
	}
	return k.HTTPStatus()
}

func errorTitle(k fault.Kind) (title, state string) {
	switch k {
	case fault.Unauthenticated:
		return "Sign in to go on", "What you sent was not done."
	case fault.Denied:
		return "You may not do this", "Nothing was changed."
	case fault.NotFound:
		return "Not here", "It was removed, renamed, or never was."
	case fault.Invalid, fault.Precondition, fault.Exists, fault.Conflict:
		return "That did not work", "Nothing was changed."
	case fault.Exhausted:
		return "Too much at the moment", "Nothing was changed."
	case fault.Unavailable, fault.Timeout:
		return "Not available at the moment", "This comes back by itself; what runs goes on."
	}
	return "Something broke on our side", "It was written to the log."
}

// sentence makes a fault's message one: upper case first, full stop last.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	r := []rune(s)
	if len(r) > 1 && r[0] >= 'a' && r[0] <= 'z' && !strings.HasPrefix(s, "mc") {
		r[0] -= 'a' - 'A'
	}
	s = string(r)
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

// isCommand guesses whether a next step can be pasted.
func isCommand(next string) bool {
	word, _, _ := strings.Cut(next, " ")
	switch word {
	case "mcp", "mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcat":
		return true
	}
	return false
}
