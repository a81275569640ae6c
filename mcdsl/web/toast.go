package web

import (
	"encoding/base64"
	"net/http"
	"unicode/utf8"
)

const maxToast = 300

// Redirect ends a write: the browser is sent to read, and shows one sentence there. The sentence travels in a cookie
// that lives until the next page.
func (s *Site) Redirect(w http.ResponseWriter, r *http.Request, to, toast string) error {
	if toast != "" {
		if utf8.RuneCountInString(toast) > maxToast {
			toast = string([]rune(toast)[:maxToast-1]) + "…"
		}
		http.SetCookie(w, s.toastCookie(base64.RawURLEncoding.EncodeToString([]byte(toast)), 60))
	}
	if r.Header.Get("HX-Request") == "true" {
		w.Header().Set("HX-Location", localPath(to))
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	http.Redirect(w, r, localPath(to), http.StatusSeeOther)
	return nil
}

func (s *Site) toastCookie(value string, age int) *http.Cookie {
	return &http.Cookie{Name: "__Host-" + s.cfg.Service + "-toast", Value: value, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: age}
}

// takeToast returns the sentence and forgets it.
func (s *Site) takeToast(w http.ResponseWriter, r *http.Request) string {
	c, err := r.Cookie("__Host-" + s.cfg.Service + "-toast")
	if err != nil {
		return ""
	}
	http.SetCookie(w, s.toastCookie("", -1))
	text, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || len(text) > 4*maxToast || !utf8.Valid(text) {
		return ""
	}
	return string(text)
}
