package account_test

import (
	"strings"
	"testing"

	"metacircular.net/mcias/internal/account"
)

func TestRedirectAllowed(t *testing.T) {
	t.Parallel()
	web := &account.Client{Kind: account.KindWeb, Redirects: []string{"https://app.example.org/callback", "https://app.example.org/cb?x=1"}}
	native := &account.Client{Kind: account.KindNative, Redirects: []string{"http://127.0.0.1/cb", "http://[::1]/cb", "https://app.example.org/cb"}}
	for _, tc := range []struct {
		c    *account.Client
		uri  string
		want bool
	}{
		{web, "https://app.example.org/callback", true},
		{web, "https://app.example.org/callback/", false},
		{web, "https://app.example.org/callback?x", false},
		{web, "https://app.example.org/callback#f", false},
		{web, "https://app.example.org/call", false},
		{web, "https://app.example.org/callbackx", false},
		{web, "https://app.example.org/x/../callback", false},
		{web, "https://APP.example.org/callback", false},
		{web, "https://app.example.org:443/callback", false},
		{web, "https://app.example.org.evil.example/callback", false},
		{web, "https://u@app.example.org/callback", false},
		{web, "http://app.example.org/callback", false},
		{web, "https://app.example.org/%63allback", false},
		{web, "https://app.example.org/cb?x=1", true},
		{web, "", false},
		{native, "http://127.0.0.1:4711/cb", true},
		{native, "http://[::1]:4711/cb", true},
		{native, "http://localhost:4711/cb", false},
		{native, "http://127.0.0.1:4711/cb?x=1", false},
		{native, "http://127.0.0.1:4711/other", false},
		{native, "http://127.0.0.2:4711/cb", false},
		{native, "https://app.example.org:8443/cb", false},
		{native, "http://127.0.0.1:4711@evil.example/cb", false},
	} {
		if got := tc.c.RedirectAllowed(tc.uri); got != tc.want {
			t.Errorf("%s: RedirectAllowed(%q) = %t, want %t", tc.c.Kind, tc.uri, got, tc.want)
		}
	}
}

func TestCheckRedirect(t *testing.T) {
	t.Parallel()
	for uri, ok := range map[string]bool{
		"https://a.example/cb": true, "http://127.0.0.1/cb": true, "http://a.example/cb": false, "http://localhost/cb": false,
		"javascript:alert(1)": false, "https://a.example/cb#x": false, "https://u:p@a.example/": false, "//a.example/": false,
		"https://*.example/": false, "https://a.example/../x": false, "https://A.example/": false, "data:text/html,x": false,
		"https://a.example/" + strings.Repeat("x", 600): false,
	} {
		if err := account.CheckRedirect(account.KindWeb, uri); (err == nil) != ok {
			t.Errorf("CheckRedirect(%q) = %v, want ok %t", uri, err, ok)
		}
	}
}

func TestNamesAndPasswords(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{"bob": true, "b": true, "node-a": true, "a.b_c": true, "": false, "Bob": false, "-a": false,
		"root": false, "local": false, "unknown": false, "a b": false, "é": false, strings.Repeat("a", 65): false} {
		if err := account.CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v, want ok %t", name, err, ok)
		}
	}
	for pw, ok := range map[string]bool{"violet anchors": true, "short": false, "bobbobbobbob": false, "aaaaaaaaaaaaaaa": false, "correct horse battery staple": false} {
		if err := account.CheckPassword([]byte(pw), "bob"); (err == nil) != ok {
			t.Errorf("CheckPassword(%q) = %v, want ok %t", pw, err, ok)
		}
	}
	if _, err := account.NormalPassword(strings.Repeat("x", 1025)); err == nil {
		t.Error("an over-long password is cut or taken")
	}
}

func FuzzCheckRedirect(f *testing.F) {
	f.Add("https://a.example/cb")
	f.Add("http://[::1]:1/cb?x=%2e%2e")
	f.Fuzz(func(t *testing.T, uri string) {
		c := &account.Client{Kind: account.KindNative, Redirects: []string{"http://127.0.0.1/cb"}}
		if c.RedirectAllowed(uri) && !strings.HasPrefix(uri, "http://127.0.0.1") {
			t.Errorf("%q is let through", uri)
		}
	})
}
