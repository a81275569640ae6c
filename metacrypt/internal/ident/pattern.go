package ident

import (
	"fmt"
	"net/netip"
	"strings"
)

// patternKind says how a pattern matches.
type patternKind uint8

const (
	exact     patternKind = iota // this name
	oneLabel                     // *.x
	anyDepth                     // **.x
	wildcards                    // wildcard:*.x
	network                      // CIDR
)

// Pattern matches names. The zero value matches nothing.
type Pattern struct {
	kind patternKind
	name Name
	net  netip.Prefix
}

// ParsePattern parses a pattern.
func ParsePattern(s string) (Pattern, error) {
	if rest, ok := strings.CutPrefix(s, "wildcard:"); ok {
		n, err := Parse(rest)
		if err != nil || !n.wildcard {
			return Pattern{}, fmt.Errorf("%q: write wildcard:*.zone", s)
		}
		return Pattern{kind: wildcards, name: n}, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Pattern{}, fmt.Errorf("%q is no network", s)
		}
		if p.Addr().Is4In6() || p.Masked() != p {
			return Pattern{}, fmt.Errorf("%q is no network in canonical form, such as %s", s, p.Masked())
		}
		return Pattern{kind: network, net: p}, nil
	}
	kind, rest := exact, s
	if r, ok := strings.CutPrefix(s, "**."); ok {
		kind, rest = anyDepth, r
	} else if r, ok := strings.CutPrefix(s, "*."); ok {
		kind, rest = oneLabel, r
	}
	n, err := Parse(rest)
	if err != nil {
		return Pattern{}, err
	}
	if n.wildcard || (kind != exact && n.IsIP()) {
		return Pattern{}, fmt.Errorf("%q is no pattern", s)
	}
	return Pattern{kind: kind, name: n}, nil
}

// Match reports whether the pattern covers the name.
func (p Pattern) Match(n Name) bool {
	switch p.kind {
	case network:
		return n.IsIP() && p.net.Contains(n.ip)
	case wildcards:
		return n == p.name
	case exact:
		return p.name != Name{} && n == p.name
	}
	if n.IsIP() || n.wildcard {
		return false
	}
	rest, ok := strings.CutSuffix(n.dns, "."+p.name.dns)
	if !ok || rest == "" {
		return false
	}
	return p.kind == anyDepth || !strings.Contains(rest, ".")
}

// Spells reports whether the pattern names exactly this name, without any glob.
func (p Pattern) Spells(n Name) bool {
	return (p.kind == exact || p.kind == wildcards) && p.Match(n)
}

// String returns the canonical text.
func (p Pattern) String() string {
	switch p.kind {
	case network:
		return p.net.String()
	case wildcards:
		return "wildcard:" + p.name.String()
	case oneLabel:
		return "*." + p.name.String()
	case anyDepth:
		return "**." + p.name.String()
	default:
		return p.name.String()
	}
}
