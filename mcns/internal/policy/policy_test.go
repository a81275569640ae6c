package policy_test

import (
	"testing"

	"github.com/miekg/dns"

	"metacircular.net/mcns/internal/policy"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	grant := func(glob string, types ...string) policy.Grant {
		g, err := policy.Grant{Principal: "account:n", Zone: "mc.test", Glob: glob, Ops: []string{"sync", "create"}, Types: types}.Normal()
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	for _, tc := range []struct {
		glob, name string
		want       bool
	}{
		{"*", "blog.mc.test.", true},
		{"*", "a.blog.mc.test.", false},
		{"**", "a.blog.mc.test.", true},
		{"**.blog", "blog.mc.test.", true},
		{"_acme-challenge.**", "_acme-challenge.blog.mc.test.", true},
		{"_acme-challenge.**", "x.blog.mc.test.", false},
		{"@", "mc.test.", true},
		{"**", "mc.test.", false}, // the apex is reserved
		{"*", "mcias.mc.test.", false},
		{"**", "x.mcias.mc.test.", false},
		{"mcias", "mcias.mc.test.", true},
		{"mcias", "x.mcias.mc.test.", false},
		{"**", "a.node.mc.test.", false},
		{"a.node", "a.node.mc.test.", true},
		{"**", "_acme-challenge.mc.test.", false},
		{"_acme-challenge.**", "_acme-challenge.mc.test.", false},
		{"_acme-challenge.**", "_acme-challenge.mcias.mc.test.", false},
		{"a*b", "axb.mc.test.", false}, // a star is a whole label or nothing
	} {
		b := &policy.Book{Platform: "mc.test.", Grants: []policy.Grant{grant(tc.glob)}}
		if got := b.Decide(policy.Request{Principal: "account:n", Op: "sync", Zone: "mc.test.", Name: tc.name}); got.Allow != tc.want {
			t.Errorf("grant %s on %s: %+v, want %v", tc.glob, tc.name, got, tc.want)
		}
	}
	b := &policy.Book{Grants: []policy.Grant{grant("*", "txt")}}
	for _, tc := range []struct {
		r    policy.Request
		want bool
	}{
		{policy.Request{Principal: "account:n", Op: "create", Zone: "mc.test.", Name: "a.mc.test.", Type: dns.TypeTXT}, true},
		{policy.Request{Principal: "account:n", Op: "create", Zone: "mc.test.", Name: "a.mc.test.", Type: dns.TypeA}, false},
		{policy.Request{Principal: "account:n", Op: "delete", Zone: "mc.test.", Name: "a.mc.test.", Type: dns.TypeTXT}, false},
		{policy.Request{Principal: "user:n", Op: "create", Zone: "mc.test.", Name: "a.mc.test.", Type: dns.TypeTXT}, false},
		{policy.Request{Principal: "account:n", Op: "create", Zone: "other.", Name: "a.other.", Type: dns.TypeTXT}, false},
	} {
		if got := b.Decide(tc.r); got.Allow != tc.want {
			t.Errorf("%+v: %+v, want %v", tc.r, got, tc.want)
		}
	}
}

func TestNormalRefuses(t *testing.T) {
	t.Parallel()
	good := policy.Grant{Principal: "account:n", Zone: "z", Glob: "*", Ops: []string{"read"}}
	for name, change := range map[string]func(*policy.Grant){
		"principal": func(g *policy.Grant) { g.Principal = "n" },
		"zone":      func(g *policy.Grant) { g.Zone = "a..b" },
		"glob":      func(g *policy.Grant) { g.Glob = "a..b" },
		"no ops":    func(g *policy.Grant) { g.Ops = nil },
		"op":        func(g *policy.Grant) { g.Ops = []string{"fly"} },
		"type":      func(g *policy.Grant) { g.Types = []string{"NOPE"} },
	} {
		g := good
		change(&g)
		if _, err := g.Normal(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
