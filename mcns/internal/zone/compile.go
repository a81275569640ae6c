package zone

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"
)

// Node is one existing name of a compiled zone. A node without sets is an empty non-terminal.
type Node struct {
	Sets map[uint16][]dns.RR
}

// Has reports whether the node holds records of a type.
func (n *Node) Has(t uint16) bool { return len(n.Sets[t]) > 0 }

// Compiled is a zone in the form queries are answered from. Immutable, safe for concurrent use.
type Compiled struct {
	Zone  *Zone
	Apex  string
	SOA   *dns.SOA
	Nodes map[string]*Node // every existing name, empty non-terminals included
	Count int              // records, SOA apart
}

// Warning is something legal that looks wrong.
type Warning struct {
	Code, Name, Type, Text string
}

// Compile checks the zone as a whole and builds its tree. What named-checkzone refuses is refused with
// the field and the reason; what it only warns about comes back as warnings.
func Compile(z *Zone) (*Compiled, []Warning, error) {
	c := &Compiled{Zone: z, Apex: z.Name, SOA: z.SOA(), Nodes: map[string]*Node{}, Count: len(z.Records)}
	c.node(z.Name).Sets[dns.TypeSOA] = []dns.RR{c.SOA}
	for _, r := range z.Records {
		if !Below(r.Name, z.Name) {
			return nil, nil, fault.Field1("name", "%s is not inside the zone %s", Plain(r.Name), Plain(z.Name))
		}
		rr, text, err := ParseValue(r.Name, r.Type, r.TTL, r.Text, z.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("%s %s: %w", Plain(r.Name), TypeName(r.Type), err)
		}
		n := c.node(r.Name)
		for _, have := range n.Sets[r.Type] {
			if Text(have) == text {
				return nil, nil, fault.New(fault.Exists, "%s %s %s is there already", Plain(r.Name), TypeName(r.Type), text)
			}
		}
		n.Sets[r.Type] = append(n.Sets[r.Type], rr)
	}
	for name := range c.Nodes {
		for p := Parent(name); p != "" && Below(p, z.Name); p = Parent(p) {
			c.node(p)
		}
	}
	if err := c.check(); err != nil {
		return nil, nil, err
	}
	return c, c.warnings(), nil
}

func (c *Compiled) node(name string) *Node {
	n := c.Nodes[name]
	if n == nil {
		n = &Node{Sets: map[uint16][]dns.RR{}}
		c.Nodes[name] = n
	}
	return n
}

// check refuses what makes a zone contradict itself.
func (c *Compiled) check() error {
	refuse := func(name, format string, args ...any) error {
		return fault.Field1("name", "%s: %s", Plain(name), fmt.Sprintf(format, args...)).WithReason("BAD_ZONE")
	}
	apex := c.Nodes[c.Apex]
	if !apex.Has(dns.TypeNS) {
		return refuse(c.Apex, "a zone needs an NS record at its top")
	}
	if apex.Has(dns.TypeDS) {
		return refuse(c.Apex, "a DS record belongs into the zone above")
	}
	for name, n := range c.Nodes {
		wildcard := strings.HasPrefix(name, "*.")
		if cn := n.Sets[dns.TypeCNAME]; len(cn) > 0 {
			if len(cn) > 1 {
				return refuse(name, "two CNAME records")
			}
			for t := range n.Sets {
				if t != dns.TypeCNAME {
					return refuse(name, "a CNAME cannot stand beside other data (%s)", TypeName(t))
				}
			}
		}
		if len(n.Sets[dns.TypeDNAME]) > 1 {
			return refuse(name, "two DNAME records")
		}
		if n.Has(dns.TypeDNAME) && n.Has(dns.TypeNS) && name != c.Apex {
			return refuse(name, "a DNAME cannot stand at a delegation (RFC 6672)")
		}
		if wildcard && n.Has(dns.TypeNS) {
			return refuse(name, "a wildcard cannot be delegated")
		}
		if n.Has(dns.TypeDS) && !n.Has(dns.TypeNS) {
			return refuse(name, "a DS record needs an NS record beside it")
		}
		for p := Parent(name); p != "" && Below(p, c.Apex); p = Parent(p) {
			if pn := c.Nodes[p]; pn.Has(dns.TypeDNAME) && !strings.HasPrefix(p, "*.") && len(n.Sets) > 0 {
				return refuse(name, "it lies below the DNAME at %s and could never be reached", Plain(p))
			}
		}
	}
	return nil
}

// warnings lists what is legal and looks wrong.
func (c *Compiled) warnings() []Warning {
	var out []Warning
	add := func(code, name string, t uint16, format string, args ...any) {
		if len(out) < 100 {
			out = append(out, Warning{Code: code, Name: Plain(name), Type: TypeName(t), Text: fmt.Sprintf(format, args...)})
		}
	}
	target := func(name string, t uint16, host string) {
		if host == "." || !Below(host, c.Apex) || c.cut(host) != "" {
			return
		}
		n := c.Nodes[host]
		switch {
		case n == nil && c.Nodes[wildcardFor(c, host)] == nil:
			add("DANGLING_TARGET", name, t, "points to %s, which does not exist", Plain(host))
		case n != nil && n.Has(dns.TypeCNAME):
			add("TARGET_IS_CNAME", name, t, "points to %s, which is a CNAME", Plain(host))
		}
	}
	for name, n := range c.Nodes {
		cut := c.cut(name)
		for t, set := range n.Sets {
			for _, rr := range set {
				switch v := rr.(type) {
				case *dns.NS:
					target(name, t, v.Ns)
					if Below(v.Ns, c.Apex) && !c.hasAddress(v.Ns) {
						add("NS_WITHOUT_ADDRESS", name, t, "%s has no address", Plain(v.Ns))
					}
				case *dns.MX:
					target(name, t, v.Mx)
				case *dns.SRV:
					target(name, t, v.Target)
				case *dns.CNAME:
					if Below(v.Target, c.Apex) && c.Nodes[v.Target] == nil && c.cut(v.Target) == "" && c.Nodes[wildcardFor(c, v.Target)] == nil {
						add("DANGLING_TARGET", name, t, "points to %s, which does not exist", Plain(v.Target))
					}
				}
			}
			if cut != "" && cut != name && t != dns.TypeA && t != dns.TypeAAAA {
				add("OCCLUDED", name, t, "it lies below the delegation at %s and is never answered", Plain(cut))
			}
		}
	}
	return out
}

func (c *Compiled) hasAddress(name string) bool {
	n := c.Nodes[name]
	return n != nil && (n.Has(dns.TypeA) || n.Has(dns.TypeAAAA))
}

// cut returns the highest delegation at or above a name, "" if there is none.
func (c *Compiled) cut(name string) string {
	found := ""
	for p := name; p != c.Apex && p != "" && p != "."; p = Parent(p) {
		if n := c.Nodes[p]; n != nil && n.Has(dns.TypeNS) {
			found = p
		}
	}
	return found
}

// wildcardFor returns the wildcard that would answer for a name that does not exist.
func wildcardFor(c *Compiled, name string) string {
	for p := Parent(name); p != "" && Below(p, c.Apex); p = Parent(p) {
		if c.Nodes[p] != nil {
			return "*." + p
		}
	}
	return ""
}
