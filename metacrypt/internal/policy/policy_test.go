package policy_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/policy"
)

var rules = []policy.Rule{
	{ID: "node-apps", Priority: 100, Effect: "allow", Usernames: []string{"mcp-agent"}, Resources: []string{"pki/pki/**"}, Actions: []string{"issue"},
		Identifiers: []string{"*.mc.localhost", "a.node.mc.localhost", "10.0.0.0/8"}},
	{ID: "secrets", Priority: 100, Effect: "allow", Tags: []string{"node"}, Resources: []string{"kv/kv/apps/**"}, Actions: []string{"read", "list"}},
	{ID: "not-blog", Priority: 50, Effect: "deny", Actions: []string{"issue"}, Identifiers: []string{"blog.mc.localhost"}},
	{ID: "users", Priority: 200, Effect: "allow", Roles: []string{"user"}, Resources: []string{"transit/transit/*"}, Actions: []string{"any"}},
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	set, err := policy.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	agent := policy.Subject{Name: "mcp-agent", Tags: []string{"node"}}
	for _, tc := range []struct {
		name     string
		who      policy.Subject
		action   string
		resource string
		ids      []string
		allow    bool
		rule     string
	}{
		{"app name", agent, "issue", "pki/pki/server", []string{"web.mc.localhost"}, true, "node-apps"},
		{"case and dot", agent, "issue", "pki/pki/server", []string{"WEB.mc.localhost."}, true, "node-apps"},
		{"own node", agent, "issue", "pki/pki/server", []string{"a.node.mc.localhost"}, true, "node-apps"},
		{"other node", agent, "issue", "pki/pki/server", []string{"b.node.mc.localhost"}, false, ""},
		{"reserved under a glob", agent, "issue", "pki/pki/server", []string{"mcias.mc.localhost"}, false, ""},
		{"reserved in capitals", agent, "issue", "pki/pki/server", []string{"MCIAS.mc.localhost"}, false, ""},
		{"apex", agent, "issue", "pki/pki/server", []string{"mc.localhost"}, false, ""},
		{"wildcard", agent, "issue", "pki/pki/server", []string{"*.mc.localhost"}, false, ""},
		{"second name outside", agent, "issue", "pki/pki/server", []string{"web.mc.localhost", "evil.example"}, false, ""},
		{"mapped address", agent, "issue", "pki/pki/server", []string{"::ffff:10.1.1.1"}, true, "node-apps"},
		{"address outside", agent, "issue", "pki/pki/server", []string{"192.0.2.1"}, false, ""},
		{"deny first", agent, "issue", "pki/pki/server", []string{"blog.mc.localhost"}, false, "not-blog"},
		{"no name", agent, "issue", "pki/pki/server", nil, false, ""},
		{"other mount", agent, "issue", "pki/other/server", []string{"web.mc.localhost"}, false, ""},
		{"secret", agent, "read", "kv/kv/apps/blog/db", nil, true, "secrets"},
		{"secret of the core", agent, "read", "kv/kv/core/db", nil, false, ""},
		{"write", agent, "write", "kv/kv/apps/blog/db", nil, false, ""},
		{"any is not admin", policy.Subject{Name: "bob", Roles: []string{"user"}}, "admin", "transit/transit/k", nil, false, ""},
		{"any", policy.Subject{Name: "bob", Roles: []string{"user"}}, "encrypt", "transit/transit/k", nil, true, "users"},
		{"nobody", policy.Subject{}, "read", "kv/kv/apps/x", nil, false, ""},
		{"admin", policy.Subject{Name: "root", Admin: true}, "issue", "pki/pki/server", []string{"mcias.mc.localhost"}, true, ""},
	} {
		names, err := ident.ParseAll(tc.ids)
		if err != nil {
			t.Fatal(err)
		}
		req := policy.Request{Subject: tc.who, Action: tc.action, Resource: tc.resource, Identifiers: names, Zones: []string{"mc.localhost"}}
		d := set.Decide(req)
		if d.Allow != tc.allow || d.Rule != tc.rule {
			t.Errorf("%s: allow=%v rule=%q (%s), want %v %q", tc.name, d.Allow, d.Rule, d.Why, tc.allow, tc.rule)
		}
		e := set.Explain(req)
		e.Near = nil
		if diff := cmp.Diff(d, e); diff != "" {
			t.Errorf("%s: explain differs from the decision:\n%s", tc.name, diff)
		}
	}
}

func TestExplainNamesTheFieldThatFailed(t *testing.T) {
	t.Parallel()
	set, err := policy.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	n, _ := ident.ParseAll([]string{"evil.example"})
	d := set.Explain(policy.Request{Subject: policy.Subject{Name: "mcp-agent"}, Action: "issue", Resource: "pki/pki/server", Identifiers: n})
	want := []policy.Near{{Rule: "not-blog", Priority: 50, Field: "identifiers"}, {Rule: "node-apps", Priority: 100, Field: "identifiers"},
		{Rule: "users", Priority: 200, Field: "roles"}}
	if diff := cmp.Diff(want, d.Near); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedRules(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]policy.Rule{
		"issue without names": {ID: "x", Effect: "allow", Actions: []string{"issue"}}, "any action without names": {ID: "x", Effect: "allow"},
		"effect": {ID: "x", Effect: "maybe"}, "id": {ID: "X Y", Effect: "deny"}, "action": {ID: "x", Effect: "deny", Actions: []string{"fly"}},
		"glob": {ID: "x", Effect: "deny", Resources: []string{"kv/../x"}}, "partial star": {ID: "x", Effect: "deny", Resources: []string{"kv/a*"}},
		"identifier": {ID: "x", Effect: "deny", Identifiers: []string{"*"}}, "empty entry": {ID: "x", Effect: "deny", Usernames: []string{""}},
	} {
		if err := policy.Check(r); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func TestExplainAgreesOnRandomCases(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(s ...string) string { return s[rnd.IntN(len(s))] }
	var rs []policy.Rule
	for i := range 60 {
		rs = append(rs, policy.Rule{ID: fmt.Sprintf("r%d", i), Priority: rnd.Int32N(5), Effect: pick("allow", "deny"), Usernames: []string{pick("a", "b", "c")},
			Actions: []string{pick("read", "issue", "any")}, Resources: []string{pick("kv/kv/**", "kv/*/x", "pki/pki/*", "**")}, Identifiers: []string{pick("*.x.org", "**.x.org", "a.x.org")}})
	}
	set, err := policy.Compile(rs)
	if err != nil {
		t.Fatal(err)
	}
	for range 10000 {
		n, _ := ident.ParseAll([]string{pick("a.x.org", "b.a.x.org", "y.org")})
		req := policy.Request{Subject: policy.Subject{Name: pick("a", "b", "d")}, Action: pick("read", "issue", "admin"),
			Resource: pick("kv/kv/a/b", "kv/kv/x", "pki/pki/server"), Identifiers: n}
		d, e := set.Decide(req), set.Explain(req)
		if d.Allow != e.Allow || d.Rule != e.Rule {
			t.Fatalf("%+v: decide %v %q, explain %v %q", req, d.Allow, d.Rule, e.Allow, e.Rule)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("kv/kv/**", "kv/kv/a")
	f.Add("**/**/**/a", "a/a/a/a/b")
	f.Fuzz(func(t *testing.T, glob, resource string) {
		set, err := policy.Compile([]policy.Rule{{ID: "x", Effect: "allow", Actions: []string{"read"}, Resources: []string{glob}}})
		if err != nil {
			return
		}
		set.Decide(policy.Request{Action: "read", Resource: resource})
	})
}
