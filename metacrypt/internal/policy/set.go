package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/ident"
)

// Subject is who asks. Roles and tags are those of the token.
type Subject struct {
	Name  string
	Roles []string
	Tags  []string
	Admin bool // holds the admin role, or is root on the local socket
}

// Request is one question. Identifiers matter for Issue only: each is decided on its own, and all must pass.
type Request struct {
	Subject     Subject
	Action      string
	Resource    string // type/mount/path
	Identifiers []ident.Name
	Zones       []string // the platform's zones, below which names are reserved
}

// Verdict is the answer about one identifier, or about the request if it has none.
type Verdict struct {
	Identifier string
	Allow      bool
	Rule       string
}

// Near is a rule that did not match, and the first field that failed.
type Near struct {
	Rule     string
	Priority int32
	Field    string
}

// Decision is the answer.
type Decision struct {
	Allow    bool
	Rule     string // that decided; empty for the default deny and for the admin role
	Why      string // one sentence
	Verdicts []Verdict
	Near     []Near // filled by Explain
}

// Set is a compiled policy. It is immutable and safe for concurrent use.
type Set struct {
	rules []*compiled
}

// Compile makes a set; the first wrong rule is the error.
func Compile(rules []Rule) (*Set, error) {
	if len(rules) > MaxRules {
		return nil, fault.New(fault.Exhausted, "there are %d rules, the most there can be", MaxRules)
	}
	s := &Set{}
	for _, r := range rules {
		c, err := compile(r)
		if err != nil {
			return nil, err
		}
		s.rules = append(s.rules, c)
	}
	slices.SortFunc(s.rules, func(a, b *compiled) int {
		if d := cmp.Compare(a.Priority, b.Priority); d != 0 {
			return d
		}
		if a.deny != b.deny {
			if a.deny {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	return s, nil
}

// Decide answers.
func (s *Set) Decide(req Request) Decision { return s.run(req, nil) }

// Explain answers and says which rules came near.
func (s *Set) Explain(req Request) Decision {
	var near []Near
	d := s.run(req, func(n Near) {
		if len(near) < 10 {
			near = append(near, n)
		}
	})
	d.Near = near
	return d
}

// run is the one implementation.
func (s *Set) run(req Request, record func(Near)) Decision {
	if req.Subject.Admin {
		return Decision{Allow: true, Why: "the admin role bypasses rules", Verdicts: verdictsOf(req, true)}
	}
	path := strings.Split(req.Resource, "/")
	names := make([]*ident.Name, 0, max(1, len(req.Identifiers)))
	for i := range req.Identifiers {
		names = append(names, &req.Identifiers[i])
	}
	if len(names) == 0 {
		if req.Action == Issue {
			return Decision{Why: "a certificate without a name is never issued"}
		}
		names = append(names, nil)
	}
	d := Decision{Allow: true}
	for _, n := range names {
		v := Verdict{}
		if n != nil {
			v.Identifier = n.String()
		}
		if r := s.first(req, path, n, record); r != nil {
			v.Rule, v.Allow = r.ID, !r.deny
		}
		d.Verdicts = append(d.Verdicts, v)
		if d.Allow && (!v.Allow || d.Rule == "") {
			d.Allow, d.Rule, d.Why = v.Allow, v.Rule, why(v, req)
		}
	}
	return d
}

// verdictsOf gives every identifier the same answer.
func verdictsOf(req Request, allow bool) []Verdict {
	var out []Verdict
	for _, n := range req.Identifiers {
		out = append(out, Verdict{Identifier: n.String(), Allow: allow})
	}
	return out
}

// why says it in one sentence.
func why(v Verdict, req Request) string {
	what := req.Action + " " + req.Resource
	if v.Identifier != "" {
		what += " for " + v.Identifier
	}
	switch {
	case v.Rule == "":
		return fmt.Sprintf("no rule lets %s %s", req.Subject.Name, what)
	case v.Allow:
		return fmt.Sprintf("rule %q allows %s", v.Rule, what)
	default:
		return fmt.Sprintf("rule %q denies %s", v.Rule, what)
	}
}

// first returns the first rule that matches; the order of the set makes it the one that decides.
func (s *Set) first(req Request, path []string, n *ident.Name, record func(Near)) *compiled {
	for _, c := range s.rules {
		field := c.fails(req, path, n)
		if field == "" {
			return c
		}
		if record != nil && field != "actions" {
			record(Near{Rule: c.ID, Priority: c.Priority, Field: field})
		}
	}
	return nil
}

// fails returns the first field that does not match, empty if all do.
func (c *compiled) fails(req Request, path []string, n *ident.Name) string {
	switch {
	case !c.covers(req.Action):
		return "actions"
	case len(c.Usernames) > 0 && !slices.Contains(c.Usernames, req.Subject.Name):
		return "usernames"
	case len(c.Roles) > 0 && !overlap(c.Roles, req.Subject.Roles):
		return "roles"
	case len(c.Tags) > 0 && !overlap(c.Tags, req.Subject.Tags):
		return "tags"
	case len(c.resources) > 0 && !slices.ContainsFunc(c.resources, func(g []string) bool { return matchGlob(g, path) }):
		return "resources"
	case n != nil && (len(c.patterns) > 0 || !c.deny && req.Action == Issue) && !c.names(*n, req.Zones):
		return "identifiers"
	}
	return ""
}

// names reports whether the rule speaks about the name. To allow a reserved name a rule has to spell it; to deny it a
// glob is enough.
func (c *compiled) names(n ident.Name, zones []string) bool {
	reserved := !c.deny && ident.Reserved(n, zones)
	return slices.ContainsFunc(c.patterns, func(p ident.Pattern) bool {
		if reserved {
			return p.Spells(n)
		}
		return p.Match(n)
	})
}

// overlap reports whether the lists share an entry.
func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(x string) bool { return slices.Contains(b, x) })
}
