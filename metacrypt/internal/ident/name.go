package ident

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// Name is an identifier in canonical form. The zero value is no name.
type Name struct {
	dns      string // without "*."
	wildcard bool
	ip       netip.Addr
}

// Parse returns the canonical form of a DNS name, a wildcard name or an address.
func Parse(s string) (Name, error) {
	if len(s) == 0 || len(s) > 255 {
		return Name{}, fmt.Errorf("a name has 1 to 253 characters, this one %d", len(s))
	}
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return Name{}, fmt.Errorf("an address in a certificate has no zone: %q", s)
		}
		return Name{ip: a.Unmap()}, nil
	}
	rest, wildcard := strings.CutPrefix(s, "*.")
	dns, err := canonicalDNS(rest)
	if err != nil {
		return Name{}, err
	}
	if wildcard && !strings.Contains(dns, ".") {
		return Name{}, fmt.Errorf("a wildcard needs two labels below it: %q", s)
	}
	return Name{dns: dns, wildcard: wildcard}, nil
}

// FromIP returns the name of an address.
func FromIP(ip net.IP) (Name, error) {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return Name{}, fmt.Errorf("an address has 4 or 16 bytes, this one %d", len(ip))
	}
	return Name{ip: a.Unmap()}, nil
}

// canonicalDNS returns lower case A-labels without the trailing dot.
func canonicalDNS(s string) (string, error) {
	s = strings.TrimSuffix(s, ".")
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f || s[i] == '%' || s[i] == '*' || s[i] == '_' {
			return "", fmt.Errorf("%q is no host name", s)
		}
	}
	a, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", fmt.Errorf("%q is no host name", s)
	}
	a = strings.ToLower(a)
	if a == "" || len(a) > 253 {
		return "", fmt.Errorf("%q is no host name", s)
	}
	labels := strings.Split(a, ".")
	for _, l := range labels {
		if !validLabel(l) {
			return "", fmt.Errorf("%q is no host name", s)
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "", fmt.Errorf("%q ends like an address but is none", s)
	}
	return a, nil
}

// validLabel accepts letters, digits and inner hyphens: RFC 1123 section 2.1.
func validLabel(l string) bool {
	if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' {
		return false
	}
	for i := range len(l) {
		c := l[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// String returns the canonical text.
func (n Name) String() string {
	switch {
	case n.ip.IsValid():
		return n.ip.String()
	case n.wildcard:
		return "*." + n.dns
	default:
		return n.dns
	}
}

// IsIP reports whether the name is an address.
func (n Name) IsIP() bool { return n.ip.IsValid() }

// IP returns the address as the x509 package wants it, nil for a DNS name.
func (n Name) IP() net.IP {
	if !n.ip.IsValid() {
		return nil
	}
	return net.IP(n.ip.AsSlice())
}

// Under reports whether the DNS name is the zone or below it.
func (n Name) Under(zone string) bool {
	return !n.IsIP() && (n.dns == zone || strings.HasSuffix(n.dns, "."+zone))
}

// ParseAll parses names and returns them sorted and without duplicates.
func ParseAll(names []string) ([]Name, error) {
	out := make([]Name, 0, len(names))
	for _, s := range names {
		n, err := Parse(s)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return Unique(out), nil
}

// Unique sorts names and drops duplicates.
func Unique(names []Name) []Name {
	slices.SortFunc(names, func(a, b Name) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(names)
}

// Strings returns the canonical texts.
func Strings(names []Name) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = n.String()
	}
	return out
}
