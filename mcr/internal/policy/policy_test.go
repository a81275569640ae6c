package policy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"metacircular.net/mcr/internal/policy"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		glob, name string
		want       bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"*", "a", true}, {"*", "a/b", false}, {"**", "a/b", true}, {"**", "", true}, {"*", "", true},
		{"a/*", "a/b", true}, {"a/*", "a/b/c", false}, {"a/**", "a/b/c", true}, {"a/**", "a", false}, {"**/x", "a/b/x", true}, {"**/x", "x", false},
		{"a*c", "abc", true}, {"a*c", "a/c", false}, {"a**c", "a/b/c", true}, {"v*.*", "v1.2", true}, {"v*.*", "v1", false},
		{"*a*b*", "xxaxxbxx", true}, {"team-*/app", "team-a/app", true}, {"", "", true}, {"", "a", false},
	} {
		if got := policy.Match(tc.glob, tc.name); got != tc.want {
			t.Errorf("Match(%q, %q) = %v", tc.glob, tc.name, got)
		}
	}
}

// TestMatchIsTheExpression compares with a regular expression over generated globs.
func TestMatchIsTheExpression(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringMatching(`(a|b|/|\*|\*\*){0,8}`).Draw(t, "glob")
		name := rapid.StringMatching(`(a|b|/){0,10}`).Draw(t, "name")
		var e strings.Builder
		for i := 0; i < len(glob); {
			n := 0
			for i+n < len(glob) && glob[i+n] == '*' {
				n++
			}
			switch {
			case n >= 2:
				e.WriteString(`.*`)
			case n == 1:
				e.WriteString(`[^/]*`)
			default:
				e.WriteString(regexp.QuoteMeta(glob[i : i+1]))
				n = 1
			}
			i += n
		}
		if got, want := policy.Match(glob, name), regexp.MustCompile(`^`+e.String()+`$`).MatchString(name); got != want {
			t.Fatalf("Match(%q, %q) = %v, want %v", glob, name, got, want)
		}
	})
}

func rule(name, effect, subject, action, repo string) policy.Rule {
	return policy.Rule{Name: name, Effect: effect, Subjects: []string{subject}, Actions: []string{action}, Repositories: []string{repo}}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	tagged := rule("tagged", "allow", "user:eve", "tag", "lib/**")
	tagged.Tags = []string{"dev-*"}
	old := rule("old", "allow", "user:old", "pull", "**")
	old.NotAfter = now.Add(-time.Second)
	set, err := policy.Compile([]policy.Rule{rule("bob", "allow", "user:bob", "push", "team/**"), rule("freeze", "deny", "any", "push", "team/prod/**"),
		rule("ci", "allow", "system:ci", "pull", "**"), tagged, old})
	if err != nil {
		t.Fatal(err)
	}
	human := func(name string, roles ...string) policy.Subject {
		return policy.Subject{Name: name, Kind: "human", Roles: roles}
	}
	for _, tc := range []struct {
		who    policy.Subject
		action policy.Action
		repo   string
		tag    string
		want   bool
	}{
		{human("bob"), policy.Push, "team/a", "", true}, {human("bob"), policy.Push, "team/prod/a", "", false}, {human("bob"), policy.Pull, "team/a", "", false},
		{human("alice", "admin"), policy.Push, "any/thing", "", true}, {human("alice", "admin"), policy.Push, "team/prod/x", "", false},
		{policy.Subject{Name: "x", Kind: "system", Roles: []string{"admin"}}, policy.Pull, "a", "", false}, // a system account has no roles
		{human("carl", "user"), policy.Push, "users/carl/app", "", true}, {human("carl", "user"), policy.Push, "users/bob/app", "", false},
		{human("carl", "user"), policy.Admin, "users/carl/app", "", false},
		{human("**", "user"), policy.Pull, "users/x/app", "", false}, {human("x/y", "user"), policy.Pull, "users/x/y/app", "", false},
		{human("ci"), policy.Pull, "a", "", false}, {policy.Subject{Name: "ci", Kind: "system"}, policy.Pull, "a", "", true},
		{human("eve"), policy.Tag, "lib/a", "dev-1", true}, {human("eve"), policy.Tag, "lib/a", "v1", false},
		{human("old"), policy.Pull, "a", "", false}, {policy.Subject{}, policy.Pull, "a", "", false}, {human("guest", "guest"), policy.Pull, "a", "", false},
	} {
		if d := set.Decide(policy.Request{Subject: tc.who, Action: tc.action, Repository: tc.repo, Tag: tc.tag}, now); d.Allow != tc.want {
			t.Errorf("%s %s %s:%s = %+v, want %v", tc.who.Name, tc.action, tc.repo, tc.tag, d, tc.want)
		}
	}
}

// TestExplainAgrees: explain says what enforcement does, and any matching deny wins, over generated rules.
func TestExplainAgrees(t *testing.T) {
	t.Parallel()
	now := time.Now()
	rapid.Check(t, func(t *rapid.T) {
		var rules []policy.Rule
		for i := range rapid.IntRange(0, 6).Draw(t, "rules") {
			r := rule(fmt.Sprint("r", i), rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "effect"),
				rapid.SampledFrom([]string{"any", "user:a", "system:a", "role:user", "role:admin"}).Draw(t, "who"),
				rapid.SampledFrom([]string{"pull", "push", "tag", "delete"}).Draw(t, "action"),
				rapid.SampledFrom([]string{"**", "a/*", "a/b", "users/{user}/**"}).Draw(t, "repo"))
			if rapid.Bool().Draw(t, "tags") {
				r.Tags = []string{rapid.SampledFrom([]string{"v*", "x"}).Draw(t, "tag glob")}
			}
			rules = append(rules, r)
		}
		set, err := policy.Compile(rules)
		if err != nil {
			t.Fatal(err)
		}
		q := policy.Request{Subject: policy.Subject{Name: "a", Kind: rapid.SampledFrom([]string{"human", "system"}).Draw(t, "kind"),
			Roles: rapid.SampledFrom([][]string{nil, {"user"}, {"admin"}}).Draw(t, "roles")},
			Action:     rapid.SampledFrom([]policy.Action{policy.Pull, policy.Push, policy.Tag, policy.Delete}).Draw(t, "asked"),
			Repository: rapid.SampledFrom([]string{"a/b", "a/b/c", "users/a/x"}).Draw(t, "name"), Tag: rapid.SampledFrom([]string{"", "v1", "x"}).Draw(t, "tag")}
		d, verdicts := set.Explain(q, now)
		if e := set.Decide(q, now); e != d {
			t.Fatalf("Decide = %+v, Explain = %+v", e, d)
		}
		allow, deny := false, false
		for _, v := range verdicts {
			allow = allow || v.Matched && v.Rule.Effect == "allow"
			deny = deny || v.Matched && v.Rule.Effect == "deny"
			if v.Matched != (v.FailedOn == "") {
				t.Fatalf("verdict %+v", v)
			}
		}
		if d.Allow != (allow && !deny) {
			t.Fatalf("decision %+v of verdicts %+v", d, verdicts)
		}
	})
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := rule("r", "allow", "any", "pull", "**")
	for name, change := range map[string]func(*policy.Rule){
		"effect": func(r *policy.Rule) { r.Effect = "maybe" }, "id": func(r *policy.Rule) { r.Name = "Not A Name" },
		"subjects": func(r *policy.Rule) { r.Subjects = nil }, "subject": func(r *policy.Rule) { r.Subjects = []string{"bob"} },
		"action": func(r *policy.Rule) { r.Actions = []string{"fly"} }, "repositories": func(r *policy.Rule) { r.Repositories = nil },
		"glob": func(r *policy.Rule) { r.Repositories = []string{"a***"} }, "variable": func(r *policy.Rule) { r.Repositories = []string{"{group}/**"} },
		"space": func(r *policy.Rule) { r.Repositories = []string{"a b"} },
	} {
		r := good
		change(&r)
		if err := r.Validate(); err == nil {
			t.Errorf("%s: the rule was taken", name)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}
