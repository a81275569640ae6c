package auth_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"metacircular.net/mcdsl/auth"
)

func TestParseScopes(t *testing.T) {
	t.Parallel()
	repo := func(name string, actions ...string) auth.Scope {
		return auth.Scope{Type: "repository", Name: name, Actions: append([]string{}, actions...)}
	}
	tests := []struct {
		name string
		in   []string
		want []auth.Scope
		bad  bool
	}{
		{"none", nil, nil, false},
		{"empty", []string{""}, nil, false},
		{"docker", []string{"repository:team/blog:push,pull"}, []auth.Scope{repo("team/blog", "pull", "push")}, false},
		{"repeated and spaced", []string{"repository:a:pull repository:b:pull", "repository:a:push"}, []auth.Scope{repo("a", "pull", "push"), repo("b", "pull")}, false},
		{"delete alone", []string{"repository:a:delete"}, []auth.Scope{repo("a", "delete")}, false},
		{"catalog", []string{"registry:catalog:*"}, []auth.Scope{{Type: "registry", Name: "catalog", Actions: []string{"*"}}}, false},
		{"unknown action dropped", []string{"repository:a:pull,fly"}, []auth.Scope{repo("a", "pull")}, false},
		{"class", []string{"repository(plugin):a:pull"}, []auth.Scope{repo("a", "pull")}, false},
		{"host with port", []string{"repository:host:5000/a:pull"}, []auth.Scope{repo("host:5000/a", "pull")}, false},
		{"no actions part", []string{"repository:a"}, nil, true},
		{"no name", []string{"repository::pull"}, nil, true},
		{"type unknown", []string{"kitchen:a:pull"}, nil, true},
		{"open class", []string{"repository(plugin:a:pull"}, nil, true},
		{"control character", []string{"repository:a\x00:pull"}, nil, true},
		{"17 scopes", []string{strings.Repeat("repository:a:pull ", 17)}, nil, true},
		{"too long", []string{"repository:" + strings.Repeat("a", 600) + ":pull"}, nil, true},
	}
	for _, tt := range tests {
		got, err := auth.ParseScopes(tt.in...)
		if (err != nil) != tt.bad {
			t.Errorf("%s: error %v, want one = %v", tt.name, err, tt.bad)
			continue
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func FuzzScope(f *testing.F) {
	for _, s := range []string{"repository:team/blog:pull,push", "registry:catalog:*", "repository(plugin):a:pull", "a:b", ":::", "repository:a:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		sc, err := auth.ParseScope(s)
		if err != nil {
			return
		}
		again, err := auth.ParseScope(sc.String())
		if err != nil {
			t.Fatalf("ParseScope(%q) = %v, but its own form fails: %v", s, sc, err)
		}
		if d := cmp.Diff(sc, again); d != "" {
			t.Errorf("%q changes when read again:\n%s", s, d)
		}
	})
}

func FuzzToken(f *testing.F) {
	idp, v := localVerifier(f)
	good := idp.Token(human("alice"))
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(strings.ToUpper(good))
	f.Add("..")
	f.Add("e30.e30.e30")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := v.Verify(s)
		if err == nil && s != good && c.Name != "alice" {
			t.Errorf("Verify(%q) = %v", s, c)
		}
		if err == nil && s != good {
			t.Errorf("another spelling of a token passes: %q", s)
		}
	})
}
