package oidc

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzAuthorizeQuery: whatever comes, no panic, and only S256 with code gets through.
func FuzzAuthorizeQuery(f *testing.F) {
	f.Add("response_type=code&scope=openid&code_challenge_method=S256&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")
	f.Add("response_type=code&response_type=code")
	f.Add("prompt=none+login&max_age=-1&%zz")
	f.Fuzz(func(t *testing.T, raw string) {
		v, err := query(&http.Request{URL: &url.URL{RawQuery: raw}})
		if err != nil {
			return
		}
		q := &request{params: v, maxAge: -1}
		if q.check() != nil {
			return
		}
		if v["response_type"] != "code" || v["code_challenge_method"] != "S256" || len(q.challenge) != 43 || v["request"] != "" {
			t.Errorf("let through: %q", raw)
		}
	})
}

// FuzzTokenForm: a form in which a name stands twice never gets through.
func FuzzTokenForm(f *testing.F) {
	f.Add("grant_type=authorization_code&code=x")
	f.Add("code=a&code=b")
	f.Fuzz(func(t *testing.T, body string) {
		r, err := http.NewRequest(http.MethodPost, "https://mcias.example.org/oidc/token", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		v, err := form(r)
		if err == nil && len(v) != len(r.PostForm) {
			t.Errorf("%q became %v", body, v)
		}
	})
}
