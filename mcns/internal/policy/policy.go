// Package policy decides who may do what to which names.
//
// A grant gives a principal ops on names of a zone that match a glob: "*" is one label, "**" any number,
// "@" the apex; "_acme-challenge.**" includes "_acme-challenge" itself. In the platform's zone a reserved
// name (the apex, the core's names and "node" with all below them, and _acme-challenge at any of these)
// is matched only by a glob that spells it, so that a grant for apps can never take the core's names.
package policy

import (
	"slices"
	"strings"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcns/internal/zone"
)

// Ops are what a grant may give.
var ops = [...]string{"allocate", "create", "delete", "read", "sync", "take", "transfer", "update"}

// Grant lets a principal do something.
type Grant struct {
	ID        int64
	Principal string // account:NAME or user:NAME
	Zone      string // canonical
	Glob      string
	Types     []string // sorted; nil = all
	Ops       []string // sorted
}

// Normal checks a grant and returns its canonical form.
func (g Grant) Normal() (Grant, error) {
	kind, name, ok := strings.Cut(g.Principal, ":")
	if !ok || name == "" || !slices.Contains([]string{"account", "user", "tsig"}, kind) {
		return g, fault.Field1("grant.principal", "%q is not account:NAME or user:NAME", g.Principal)
	}
	z, err := zone.Canonical(g.Zone)
	if err != nil {
		return g, fault.Field1("grant.zone", "%q is no domain name", g.Zone)
	}
	g.Zone = z
	g.Glob = strings.ToLower(strings.TrimSpace(g.Glob))
	if g.Glob == "" || len(g.Glob) > 255 || strings.HasPrefix(g.Glob, ".") || strings.HasSuffix(g.Glob, ".") || strings.Contains(g.Glob, "..") {
		return g, fault.Field1("grant.name_glob", "%q is no pattern; write a name, * for one label, ** for any depth, @ for the zone itself", g.Glob)
	}
	if len(g.Ops) == 0 {
		return g, fault.Field1("grant.ops", "is empty; give some of %s", strings.Join(ops[:], " "))
	}
	var list []string
	for _, o := range g.Ops {
		if !slices.Contains(ops[:], o) {
			return g, fault.Field1("grant.ops", "%q is none of %s", o, strings.Join(ops[:], " "))
		}
		list = append(list, o)
	}
	slices.Sort(list)
	g.Ops = slices.Compact(list)
	var types []string
	for _, t := range g.Types {
		n, err := zone.ParseType(t)
		if err != nil {
			return g, fault.Field1("grant.types", "%q is no record type", t)
		}
		types = append(types, zone.TypeName(n))
	}
	slices.Sort(types)
	g.Types = slices.Compact(types)
	return g, nil
}

// Book holds the grants of the moment. Immutable.
type Book struct {
	Grants   []Grant
	Platform string // canonical domain of the platform, "" = none: no name is reserved
}

// Request is one question.
type Request struct {
	Principal string
	Op        string
	Zone      string // canonical
	Name      string // canonical
	Type      uint16 // 0 = any type will do
}

// Verdict is the answer, with the grant that gave it.
type Verdict struct {
	Allow bool
	Why   string
	Grant Grant
}

// Decide looks for a grant. Linear: some hundred grants at most.
func (b *Book) Decide(r Request) Verdict {
	rel := zone.Relative(r.Name, r.Zone)
	reserved := b.Reserved(r.Name)
	near := ""
	for _, g := range b.Grants {
		if g.Principal != r.Principal || g.Zone != r.Zone || !slices.Contains(g.Ops, r.Op) {
			continue
		}
		if r.Type != 0 && len(g.Types) > 0 && !slices.Contains(g.Types, zone.TypeName(r.Type)) {
			continue
		}
		if !match(g.Glob, rel) {
			continue
		}
		if reserved && strings.Contains(g.Glob, "*") {
			near = "the name is reserved; only a grant that spells it would do"
			continue
		}
		return Verdict{Allow: true, Why: "grant " + g.Glob, Grant: g}
	}
	if near == "" {
		near = "no grant gives " + r.Principal + " " + r.Op + " on " + rel
	}
	return Verdict{Why: near}
}

// Any reports whether the principal may do op to some name of the zone: enough to see the zone.
func (b *Book) Any(principal, op, zoneName string) Verdict {
	for _, g := range b.Grants {
		if g.Principal == principal && (zoneName == "" || g.Zone == zoneName) && slices.Contains(g.Ops, op) {
			return Verdict{Allow: true, Why: "grant " + g.Glob, Grant: g}
		}
	}
	return Verdict{Why: "no grant gives " + principal + " " + op + " there"}
}

// core are the names of the platform's own services.
var core = [...]string{"mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcp", "mcat", "node"}

// Reserved reports whether a canonical name is one of the platform's own.
func (b *Book) Reserved(name string) bool {
	if b.Platform == "" || !zone.Below(name, b.Platform) {
		return false
	}
	rel := zone.Relative(name, b.Platform)
	if rel == "@" || rel == "_acme-challenge" || strings.HasSuffix(rel, "._acme-challenge") {
		return true
	}
	for _, c := range core {
		if rel == c || strings.HasSuffix(rel, "."+c) {
			return true
		}
	}
	return false
}

// match compares a relative name with a glob, label by label from the right.
func match(glob, name string) bool {
	if glob == "@" || name == "@" {
		return glob == name || glob == "**"
	}
	return matchLabels(strings.Split(glob, "."), strings.Split(name, "."))
}

func matchLabels(g, n []string) bool {
	for len(g) > 0 && len(n) > 0 && g[0] != "**" && g[len(g)-1] != "**" {
		if g[len(g)-1] != "*" && g[len(g)-1] != n[len(n)-1] {
			return false
		}
		g, n = g[:len(g)-1], n[:len(n)-1]
	}
	if len(g) == 0 || len(n) == 0 {
		return len(n) == 0 && (len(g) == 0 || len(g) == 1 && g[0] == "**")
	}
	if g[len(g)-1] == "**" {
		for i := len(n); i >= 0; i-- {
			if matchLabels(g[:len(g)-1], n[:i]) {
				return true
			}
		}
		return false
	}
	if g[len(g)-1] != "*" && g[len(g)-1] != n[len(n)-1] {
		return false
	}
	return matchLabels(g[:len(g)-1], n[:len(n)-1])
}
