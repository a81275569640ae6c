package auth

import (
	"slices"
	"strings"

	"metacircular.net/mcdsl/fault"
)

// Scope is one entry of a registry token's access claim, and of a scope parameter: what was asked for.
// The grammar is the distribution project's: type ":" name ":" action *("," action), where the type may carry a
// class in parentheses and the name may hold colons (a host with a port).
type Scope struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// Limits of a scope parameter.
const (
	MaxScopes    = 16
	maxScopeLen  = 512
	maxScopeText = MaxScopes * (maxScopeLen + 1)
)

// ParseScopes parses scope parameters, which come repeated or separated by spaces. Actions are sorted and
// unique; unknown ones are dropped; scopes on the same thing are merged. The order of first mention is kept.
func ParseScopes(params ...string) ([]Scope, error) {
	var out []Scope
	total, seen := 0, 0
	for _, p := range params {
		if total += len(p); total > maxScopeText {
			return nil, fault.Field1("scope", "longer than %d bytes", maxScopeText)
		}
		for word := range strings.FieldsSeq(p) {
			if seen++; seen > MaxScopes {
				return nil, fault.Field1("scope", "more than %d scopes", MaxScopes)
			}
			s, err := ParseScope(word)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(out, func(o Scope) bool { return o.Type == s.Type && o.Name == s.Name })
			if i < 0 {
				out = append(out, s)
				continue
			}
			out[i].Actions = sortedActions(append(out[i].Actions, s.Actions...))
		}
	}
	return out, nil
}

// ParseScope parses one scope, e.g. "repository:team/blog:pull,push" or "registry:catalog:*".
func ParseScope(s string) (Scope, error) {
	bad := func(why string) (Scope, error) {
		return Scope{}, fault.Field1("scope", "%q: %s", shorten(s), why)
	}
	if len(s) > maxScopeLen {
		return bad("too long")
	}
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			return bad("holds a character that a scope cannot hold")
		}
	}
	typ, rest, ok := strings.Cut(s, ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i <= 0 || typ == "" {
		return bad("want type:name:actions")
	}
	name, actions := rest[:i], rest[i+1:]
	if class, _, has := strings.Cut(typ, "("); has { // repository(plugin) of old clients
		if !strings.HasSuffix(typ, ")") {
			return bad("class without its closing parenthesis")
		}
		typ = class
	}
	switch typ {
	case "repository", "registry":
	default:
		return bad("type is repository or registry")
	}
	return Scope{Type: typ, Name: name, Actions: sortedActions(strings.Split(actions, ","))}, nil
}

// String returns the scope in the form ParseScope reads.
func (s Scope) String() string { return s.Type + ":" + s.Name + ":" + strings.Join(s.Actions, ",") }

// Allows reports whether the scope covers an action; "*" covers all.
func (s Scope) Allows(action string) bool {
	return slices.Contains(s.Actions, action) || slices.Contains(s.Actions, "*")
}

// Permits reports whether the caller's token covers an action on a thing: always when it carries no access
// claim, since then policy alone bounds it.
func (c Caller) Permits(typ, name, action string) bool {
	if !c.known {
		return false
	}
	if !c.scoped {
		return true
	}
	return slices.ContainsFunc(c.Access, func(s Scope) bool {
		return s.Type == typ && s.Name == name && s.Allows(action)
	})
}

func sortedActions(in []string) []string {
	out := make([]string, 0, len(in))
	for _, a := range in {
		switch a {
		case "pull", "push", "delete", "*":
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// shorten keeps refused input readable in a message.
func shorten(s string) string {
	if len(s) > 64 {
		return s[:60] + "…"
	}
	return s
}
