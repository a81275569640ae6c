package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"metacircular.net/mcias/internal/policy"
)

var noon = time.Date(2027, 3, 3, 12, 0, 0, 0, time.UTC) // a Wednesday

func compile(t *testing.T, rules ...policy.Rule) *policy.Set {
	t.Helper()
	s, err := policy.Compile(1, rules)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func allow(id string, edit func(*policy.Rule)) policy.Rule {
	r := policy.Rule{ID: id, Effect: policy.Allow}
	if edit != nil {
		edit(&r)
	}
	return r
}

func bob(edit func(*policy.Request)) policy.Request {
	q := policy.Request{Service: "gitea", ClientKind: "web", ServiceTags: []string{"env:prod"}, Account: "bob", AccountID: "id-bob", AccountType: "human",
		Roles: []string{"user"}, AccountTags: []string{"family"}, IP: netip.MustParseAddr("10.8.0.9"), Time: noon, AMR: []string{"pwd"}, AuthTime: noon.Add(-time.Minute)}
	if edit != nil {
		edit(&q)
	}
	return q
}

func TestOneField(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rule policy.Rule
		req  policy.Request
		want policy.Outcome
	}{
		"no rule":              {policy.Rule{ID: "x", Effect: policy.Allow, Disabled: true}, bob(nil), policy.OutcomeDeny},
		"everybody":            {allow("x", nil), bob(nil), policy.OutcomeAllow},
		"service":              {allow("x", func(r *policy.Rule) { r.Services = []string{"wiki"} }), bob(nil), policy.OutcomeDeny},
		"kind":                 {allow("x", func(r *policy.Rule) { r.ClientKinds = []string{"service"} }), bob(nil), policy.OutcomeDeny},
		"all tags":             {allow("x", func(r *policy.Rule) { r.RequiredTags = []string{"env:prod", "b"} }), bob(nil), policy.OutcomeDeny},
		"any role":             {allow("x", func(r *policy.Rule) { r.Roles = []string{"admin", "user"} }), bob(nil), policy.OutcomeAllow},
		"no role at all":       {allow("x", func(r *policy.Rule) { r.Roles = []string{"user"} }), bob(func(q *policy.Request) { q.Roles = nil }), policy.OutcomeDeny},
		"account tag":          {allow("x", func(r *policy.Rule) { r.AccountTags = []string{"family"} }), bob(nil), policy.OutcomeAllow},
		"type":                 {allow("x", func(r *policy.Rule) { r.AccountTypes = []string{"system"} }), bob(nil), policy.OutcomeDeny},
		"network":              {allow("x", func(r *policy.Rule) { r.Networks = []string{"10.8.0.0/16"} }), bob(nil), policy.OutcomeAllow},
		"IPv4 in IPv6":         {allow("x", func(r *policy.Rule) { r.Networks = []string{"10.8.0.0/16"} }), bob(func(q *policy.Request) { q.IP = netip.MustParseAddr("::ffff:10.8.0.9") }), policy.OutcomeAllow},
		"excluded":             {allow("x", func(r *policy.Rule) { r.Networks = []string{"!10.8.0.0/16"} }), bob(nil), policy.OutcomeDeny},
		"only exclusions":      {allow("x", func(r *policy.Rule) { r.Networks = []string{"!10.9.0.0/16"} }), bob(nil), policy.OutcomeAllow},
		"no address":           {allow("x", func(r *policy.Rule) { r.Networks = []string{"0.0.0.0/0"} }), bob(func(q *policy.Request) { q.IP = netip.Addr{} }), policy.OutcomeDeny},
		"hours":                {allow("x", func(r *policy.Rule) { r.Hours = []string{"mon-fri 08:00-18:00"} }), bob(nil), policy.OutcomeAllow},
		"hours elsewhere":      {allow("x", func(r *policy.Rule) { r.Hours = []string{"mon-fri 08:00-18:00"}; r.TZ = "Asia/Tokyo" }), bob(nil), policy.OutcomeDeny},
		"over midnight":        {allow("x", func(r *policy.Rule) { r.Hours = []string{"tue 22:00-13:00"} }), bob(nil), policy.OutcomeAllow},
		"expired":              {allow("x", func(r *policy.Rule) { r.ExpiresAt = noon }), bob(nil), policy.OutcomeDeny},
		"not yet":              {allow("x", func(r *policy.Rule) { r.NotBefore = noon.Add(time.Second) }), bob(nil), policy.OutcomeDeny},
		"another action":       {allow("x", func(r *policy.Rule) { r.Actions = []string{"audit:read"} }), bob(nil), policy.OutcomeDeny},
		"star is not login":    {allow("x", func(r *policy.Rule) { r.Actions = []string{"*"} }), bob(nil), policy.OutcomeDeny},
		"owner":                {allow("x", func(r *policy.Rule) { r.OwnerIsSubject = true }), bob(func(q *policy.Request) { q.ResourceOwner = "id-bob" }), policy.OutcomeAllow},
		"nobody's":             {allow("x", func(r *policy.Rule) { r.OwnerIsSubject = true }), bob(func(q *policy.Request) { q.AccountID = "" }), policy.OutcomeDeny},
		"mfa":                  {allow("x", func(r *policy.Rule) { r.Obligations.RequireMFA = true }), bob(nil), policy.OutcomeStepUp},
		"mfa shown":            {allow("x", func(r *policy.Rule) { r.Obligations.RequireMFA = true }), bob(func(q *policy.Request) { q.AMR = []string{"pwd", "otp", "mfa"} }), policy.OutcomeAllow},
		"access key is no mfa": {allow("x", func(r *policy.Rule) { r.Obligations.RequireMFA = true }), bob(func(q *policy.Request) { q.AMR = []string{"key"} }), policy.OutcomeStepUp},
		"passkey without user": {allow("x", func(r *policy.Rule) { r.Obligations.RequirePasskey = true }), bob(func(q *policy.Request) { q.AMR = []string{"pop", "mfa"} }), policy.OutcomeStepUp},
		"too old":              {allow("x", func(r *policy.Rule) { r.Obligations.MaxAuthAge = 30 * time.Second }), bob(nil), policy.OutcomeStepUp},
		"young enough":         {allow("x", func(r *policy.Rule) { r.Obligations.MaxAuthAge = time.Minute }), bob(nil), policy.OutcomeAllow},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := compile(t, tc.rule)
			if got := s.Decide(tc.req); got.Outcome != tc.want {
				t.Errorf("Decide = %s (%s), want %s", got.Outcome, s.Explain(tc.req).Why, tc.want)
			}
		})
	}
}

func TestDenyWinsAndObligationsAdd(t *testing.T) {
	t.Parallel()
	a := allow("a", func(r *policy.Rule) {
		r.Obligations = policy.Obligations{MaxAuthAge: time.Hour, TokenTTL: 5 * time.Minute}
	})
	b := allow("b", func(r *policy.Rule) { r.Obligations = policy.Obligations{RequireMFA: true, MaxAuthAge: time.Minute} })
	s := compile(t, a, b)
	q := bob(func(q *policy.Request) { q.AMR = []string{"pwd", "otp", "mfa"} })
	d := s.Decide(q)
	want := policy.Obligations{RequireMFA: true, MaxAuthAge: time.Minute, TokenTTL: 5 * time.Minute}
	if d.Outcome != policy.OutcomeAllow || d.Obligations != want {
		t.Errorf("Decide = %+v, want allow with %+v", d, want)
	}
	e := s.Explain(q)
	if d := cmp.Diff(map[string]string{"require_mfa": "b", "max_auth_age": "b", "token_ttl": "a"}, e.SetBy); d != "" {
		t.Errorf("who set what (-want +got):\n%s", d)
	}
	s = compile(t, a, b, policy.Rule{ID: "c", Effect: policy.Deny, Accounts: []string{"bob"}})
	if d := s.Decide(q); d.Outcome != policy.OutcomeDeny || !slices.Equal(d.Deciding, []string{"c"}) {
		t.Errorf("Decide = %+v, want deny by c", d)
	}
}

func TestUntil(t *testing.T) {
	t.Parallel()
	end := noon.Add(90 * time.Minute)
	a := allow("a", func(r *policy.Rule) { r.ExpiresAt = end })
	b := allow("b", func(r *policy.Rule) { r.Hours = []string{"wed 08:00-13:00"} })
	if got := compile(t, b).Decide(bob(nil)).Until; !got.Equal(noon.Add(time.Hour)) {
		t.Errorf("Until = %v, want 13:00", got)
	}
	if got := compile(t, a, b).Decide(bob(nil)).Until; !got.Equal(end) {
		t.Errorf("Until = %v, want the later end %v", got, end)
	}
	if got := compile(t, a, allow("c", nil)).Decide(bob(nil)).Until; !got.IsZero() {
		t.Errorf("Until = %v, want none: c goes on", got)
	}
}

func TestInitialPolicy(t *testing.T) {
	t.Parallel()
	s, err := policy.CompileAll(1, policy.Initial())
	if err != nil {
		t.Fatal(err)
	}
	at := func(account, typ, service, kind string, roles, tags []string) policy.Outcome {
		return s.Decide(policy.Request{Service: service, ClientKind: kind, Account: account, AccountType: typ, Roles: roles, AccountTags: tags, Time: noon, AMR: []string{"pwd"}}).Outcome
	}
	for _, tc := range []struct {
		got, want policy.Outcome
		what      string
	}{
		{at("a", "human", "mcr", "service", []string{"admin"}, nil), policy.OutcomeAllow, "admin at a service"},
		{at("a", "human", "mcr", "registry", []string{"admin"}, nil), policy.OutcomeAllow, "admin at the registry"},
		{at("a", "human", "gitea", "web", []string{"admin"}, nil), policy.OutcomeDeny, "admin at an app"},
		{at("b", "human", "mcr", "service", []string{"user"}, nil), policy.OutcomeDeny, "user at a service"},
		{at("b", "human", "mcias", "service", []string{"user"}, nil), policy.OutcomeAllow, "user at their account page"},
		{at("mcp", "system", "mcr", "service", nil, []string{"core"}), policy.OutcomeAllow, "core at a service"},
		{at("x", "system", "mcr", "service", nil, nil), policy.OutcomeDeny, "another system account at a service"},
		{at("mcp", "system", "mcias", "service", nil, nil), policy.OutcomeDeny, "untagged service at mcias"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %s, want %s", tc.what, tc.got, tc.want)
		}
	}
}

// TestEveryDecisionIsReproduced: each deciding rule alone gives the effect, and a naive reading of the rules agrees.
func TestEveryDecisionIsReproduced(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(all ...string) []string {
		var out []string
		for _, s := range all {
			if rnd.IntN(3) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	for range 2000 {
		var rules []policy.Rule
		for i := range rnd.IntN(8) {
			r := policy.Rule{ID: string(rune('a' + i)), Effect: policy.Allow, Services: pick("gitea", "wiki"), Roles: pick("admin", "user"), Accounts: pick("bob", "eve"),
				AccountTags: pick("family"), Networks: pick("10.8.0.0/16", "!10.8.0.0/24")}
			if rnd.IntN(4) == 0 {
				r.Effect = policy.Deny
			} else if rnd.IntN(3) == 0 {
				r.Obligations.RequireMFA = true
			}
			rules = append(rules, r)
		}
		s := compile(t, rules...)
		q := bob(func(q *policy.Request) { q.Roles = pick("admin", "user"); q.AccountTags = pick("family") })
		d := s.Decide(q)
		effect := policy.Allow
		if d.Outcome == policy.OutcomeDeny {
			effect = policy.Deny
		}
		for _, id := range d.Deciding {
			i := slices.IndexFunc(rules, func(r policy.Rule) bool { return r.ID == id })
			alone := compile(t, rules[i]).Decide(q)
			if rules[i].Effect != effect || !slices.Equal(alone.Deciding, []string{id}) {
				t.Fatalf("rule %s decided %s, alone %+v", id, d.Outcome, alone)
			}
		}
		for _, v := range s.Explain(q).Verdicts {
			if v.Matched != (v.Field == "") || v.Deciding && !v.Matched {
				t.Fatalf("verdict %+v contradicts itself", v)
			}
		}
	}
}

func TestRefusedRules(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]policy.Rule{
		"no id":           {Effect: policy.Allow},
		"reserved id":     {ID: "builtin:x", Effect: policy.Allow},
		"effect":          {ID: "x", Effect: "maybe"},
		"deny obligation": {ID: "x", Effect: policy.Deny, Obligations: policy.Obligations{RequireMFA: true}},
		"host bits":       allow("x", func(r *policy.Rule) { r.Networks = []string{"10.8.0.1/16"} }),
		"mixed family":    allow("x", func(r *policy.Rule) { r.Networks = []string{"::ffff:0:0/64"} }),
		"hours":           allow("x", func(r *policy.Rule) { r.Hours = []string{"mon 08:00-08:00"} }),
		"day":             allow("x", func(r *policy.Rule) { r.Hours = []string{"mond 08:00-09:00"} }),
		"zone":            allow("x", func(r *policy.Rule) { r.TZ = "Moon/Sea" }),
		"role":            allow("x", func(r *policy.Rule) { r.Roles = []string{"root"} }),
		"empty entry":     allow("x", func(r *policy.Rule) { r.Accounts = []string{""} }),
	} {
		if _, err := policy.Compile(1, []policy.Rule{r}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := policy.Compile(1, []policy.Rule{allow("x", nil), allow("x", nil)}); err == nil {
		t.Error("an id twice: taken")
	}
}

const example = `
[[rule]]
id = "core-needs-fresh-passkey"
effect = "allow"
services = ["mcp", "metacrypt"]
roles = ["admin", "user"]
networks = ["10.8.0.0/16"]
require_passkey = true
max_auth_age = "15m"
[[test]]
given  = { account = "bob", service = "gitea", ip = "203.0.113.9", time = "2027-03-02T09:00:00Z", amr = ["pwd"] }
expect = "deny"
`

func TestFileRoundTrip(t *testing.T) {
	t.Parallel()
	f, err := policy.ParseFile([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Rules) != 1 || f.Rules[0].Obligations.MaxAuthAge != 15*time.Minute || len(f.Tests) != 1 {
		t.Fatalf("ParseFile = %+v", f)
	}
	text, err := policy.FormatFile(7, f.Rules)
	if err != nil {
		t.Fatal(err)
	}
	again, err := policy.ParseFile(text)
	if err != nil || again.Revision != 7 {
		t.Fatalf("ParseFile(FormatFile) = %+v, %v", again, err)
	}
	if d := policy.Diff(f.Rules, again.Rules); len(d) > 0 {
		t.Errorf("a round trip changed %v", d)
	}
	for _, bad := range []string{"[[rule]]\nid = \"x\"\neffect = \"allow\"\nservice = [\"a\"]\n", "[[rule]]\nid = 'x'\neffect = 'allow'\nmax_auth_age = '0s'\n", "]["} {
		if _, err := policy.ParseFile([]byte(bad)); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("[[rule]]\nid='x'\neffect='deny'\nhours=['sat,sun 22:00-06:00']\ntz='Europe/Berlin'\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := policy.ParseFile(data)
		if err != nil {
			return
		}
		s, err := policy.CompileAll(1, file.Rules)
		if err != nil {
			t.Fatalf("parsed but does not compile: %v", err)
		}
		s.Explain(bob(nil))
	})
}

func BenchmarkDecide1000(b *testing.B) {
	var rules []policy.Rule
	for i := range 1000 {
		rules = append(rules, policy.Rule{ID: "r" + time.Duration(i).String(), Effect: policy.Allow, Services: []string{"s" + time.Duration(i%50).String()}, Roles: []string{"user"}})
	}
	s, err := policy.Compile(1, rules)
	if err != nil {
		b.Fatal(err)
	}
	q := bob(func(q *policy.Request) { q.Service = "s7ns" })
	b.ReportAllocs()
	for b.Loop() {
		s.Decide(q)
	}
}
