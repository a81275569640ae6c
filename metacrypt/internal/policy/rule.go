package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/ident"
)

// MaxRules is the most rules there can be.
const MaxRules = 1000

// The actions. Any covers all but Admin.
const (
	Read    = "read"
	List    = "list"
	Write   = "write"
	Delete  = "delete"
	Encrypt = "encrypt"
	Decrypt = "decrypt"
	Sign    = "sign"
	Verify  = "verify"
	HMAC    = "hmac"
	Issue   = "issue"
	Admin   = "admin"
	Any     = "any"
)

var actions = [...]string{Read, List, Write, Delete, Encrypt, Decrypt, Sign, Verify, HMAC, Issue, Admin, Any}

// Rule is one rule. An empty list means any.
type Rule struct {
	ID          string   `json:"id"`
	Priority    int32    `json:"priority"`
	Effect      string   `json:"effect"` // allow or deny
	Usernames   []string `json:"usernames,omitempty"`
	Roles       []string `json:"roles,omitempty"`
	Tags        []string `json:"tags,omitempty"`
	Resources   []string `json:"resources,omitempty"`
	Actions     []string `json:"actions,omitempty"`
	Identifiers []string `json:"identifiers,omitempty"`
}

var ruleID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// compiled is a rule ready to match.
type compiled struct {
	Rule
	deny      bool
	resources [][]string
	patterns  []ident.Pattern
}

// compile checks a rule; the fault names every field that is wrong.
func compile(r Rule) (*compiled, error) {
	f := fault.New(fault.Invalid, "rule %q is refused", r.ID)
	if !ruleID.MatchString(r.ID) {
		f.WithField("rule.id", "%q: lower case letters, digits and hyphens, at most 63", r.ID)
	}
	c := &compiled{Rule: r, deny: r.Effect == "deny"}
	if r.Effect != "allow" && r.Effect != "deny" {
		f.WithField("rule.effect", "%q is not allow or deny", r.Effect)
	}
	for _, a := range r.Actions {
		if !slices.Contains(actions[:], a) {
			f.WithField("rule.actions", "%q is no action; there are %s", a, strings.Join(actions[:], ", "))
		}
	}
	for name, list := range map[string][]string{"usernames": r.Usernames, "roles": r.Roles, "tags": r.Tags, "resources": r.Resources,
		"actions": r.Actions, "identifiers": r.Identifiers} {
		if len(list) > 100 {
			f.WithField("rule."+name, "has %d entries, at most 100", len(list))
		}
		if slices.Contains(list, "") {
			f.WithField("rule."+name, "has an empty entry")
		}
	}
	for _, g := range r.Resources {
		segs, err := parseGlob(g)
		if err != nil {
			f.WithField("rule.resources", "%v", err)
		}
		c.resources = append(c.resources, segs)
	}
	for _, p := range r.Identifiers {
		pat, err := ident.ParsePattern(p)
		if err != nil {
			f.WithField("rule.identifiers", "%v", err)
		}
		c.patterns = append(c.patterns, pat)
	}
	if !c.deny && c.covers(Issue) && c.reachesIssuers() && len(r.Identifiers) == 0 {
		f.WithField("rule.identifiers", "a rule that allows issuing lists the names it is for")
	}
	if len(f.Fields) > 0 {
		return nil, f.WithNext("metacrypt policy put --help")
	}
	return c, nil
}

// Check reports what is wrong with a rule.
func Check(r Rule) error {
	_, err := compile(r)
	return err
}

// covers reports whether the rule speaks about the action.
func (c *compiled) covers(action string) bool {
	if len(c.Actions) == 0 {
		return action != Admin // an empty list means any, which never includes admin
	}
	return slices.Contains(c.Actions, action) || (action != Admin && slices.Contains(c.Actions, Any))
}

// reachesIssuers reports whether the rule's resources include an engine that issues certificates.
func (c *compiled) reachesIssuers() bool {
	return len(c.resources) == 0 || slices.ContainsFunc(c.resources, func(g []string) bool {
		return len(g) > 0 && slices.Contains([]string{"*", "**", "pki", "ssh", "acme"}, g[0])
	})
}

// parseGlob splits a resource glob.
func parseGlob(g string) ([]string, error) {
	segs := strings.Split(g, "/")
	if len(segs) > 18 {
		return nil, fmt.Errorf("%q has more than 18 segments", g)
	}
	for _, s := range segs {
		if s == "" || s == "." || s == ".." || len(s) > 128 {
			return nil, fmt.Errorf("%q has an empty, dotted or overlong segment", g)
		}
		if strings.Contains(s, "*") && s != "*" && s != "**" {
			return nil, fmt.Errorf("%q: * stands for a whole segment", g)
		}
	}
	return segs, nil
}

// matchGlob matches segments; "*" is one, "**" any number.
func matchGlob(glob, path []string) bool {
	// Greedy with one point to come back to: linear in practice, and never exponential.
	gi, pi, star, mark := 0, 0, -1, 0
	for pi < len(path) {
		switch {
		case gi < len(glob) && glob[gi] == "**":
			star, mark = gi, pi
			gi++
		case gi < len(glob) && (glob[gi] == "*" || glob[gi] == path[pi]):
			gi++
			pi++
		case star >= 0:
			mark++
			gi, pi = star+1, mark
		default:
			return false
		}
	}
	for gi < len(glob) && glob[gi] == "**" {
		gi++
	}
	return gi == len(glob)
}
