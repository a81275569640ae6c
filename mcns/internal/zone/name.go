package zone

import (
	"strings"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"
)

// Canonical returns the absolute, lower-case form of a name, with escapes as the library writes them.
// A missing final dot is added.
func Canonical(name string) (string, error) {
	if name == "" {
		return "", fault.Field1("name", "is empty")
	}
	var wire [256]byte
	n, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false)
	if err != nil {
		return "", fault.Field1("name", "%q is no domain name: labels have 1 to 63 octets, the whole at most 255", name)
	}
	out, _, err := dns.UnpackDomainName(wire[:n], 0)
	if err != nil {
		return "", fault.Field1("name", "%q is no domain name", name)
	}
	return strings.ToLower(out), nil
}

// Absolute returns the canonical name of one that is relative to the zone ("@" is the apex), or already
// absolute with a final dot.
func Absolute(name, apex string) (string, error) {
	switch {
	case name == "" || name == "@":
		return apex, nil
	case strings.HasSuffix(name, ".") && !strings.HasSuffix(name, `\.`):
		abs, err := Canonical(name)
		if err != nil {
			return "", err
		}
		if !Below(abs, apex) {
			return "", fault.Field1("name", "%s is not inside the zone %s", Plain(abs), Plain(apex))
		}
		return abs, nil
	case apex == ".":
		return Canonical(name + ".")
	}
	return Canonical(name + "." + apex)
}

// Relative writes a name as seen from the zone: "@" for the apex, without the zone's name below it.
func Relative(name, apex string) string {
	if name == apex {
		return "@"
	}
	if apex == "." {
		return strings.TrimSuffix(name, ".")
	}
	return strings.TrimSuffix(name, "."+apex)
}

// Plain writes an absolute name without the final dot, as the API shows it.
func Plain(name string) string {
	if name == "." {
		return name
	}
	return strings.TrimSuffix(name, ".")
}

// Below reports whether name is apex or lies below it. Both are canonical.
func Below(name, apex string) bool {
	return apex == "." || name == apex || strings.HasSuffix(name, "."+apex) && dns.IsSubDomain(apex, name)
}

// Parent returns the name one label up; the parent of the root is "".
func Parent(name string) string {
	if name == "." {
		return ""
	}
	i, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[i:]
}
