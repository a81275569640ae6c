// Package answer finds the answer to a question in a [zone.View], exactly as RFC 1034, 2181, 2308, 4592,
// 6604, 6672 and 9471 say. It is pure: no clock, no network, no state. Every step is noted for `explain`.
package answer

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"metacircular.net/mcns/internal/zone"
)

// maxChain bounds CNAME and DNAME steps.
const maxChain = 16

// Question is what is asked.
type Question struct {
	Name string // as asked, absolute
	Type uint16
	DO   bool // the client wants DNSSEC records
}

// Result is the answer.
type Result struct {
	Found     bool // one of our zones is responsible; otherwise forward or refuse
	Rcode     int
	AA        bool
	Answer    []dns.RR
	Authority []dns.RR
	Extra     []dns.RR
	Follow    string   // a chain left our zones here; a resolver may go on
	Path      []string // one sentence a step, if asked for
}

type walker struct {
	v       *zone.View
	q       Question
	res     Result
	explain bool
}

// Lookup answers a question. With explain, Path says how.
func Lookup(v *zone.View, q Question, explain bool) Result {
	w := &walker{v: v, q: q, explain: explain}
	name := strings.ToLower(q.Name)
	owner := q.Name
	seen := map[string]bool{}
	for step := 0; ; step++ {
		z := w.responsible(name)
		if z == nil {
			if step > 0 {
				w.note("%s is outside our zones; the chain goes on there", name)
				w.res.Follow = name
			}
			break
		}
		if step == 0 {
			w.res.Found, w.res.AA = true, true
		}
		w.note("zone %s, serial %d, is responsible for %s", zone.Plain(z.Apex), z.SOA.Serial, name)
		next := w.inZone(z, name, owner, step == 0)
		if next == "" {
			break
		}
		if seen[next] || step+1 >= maxChain {
			w.note("the chain loops or has %d steps; it ends here", step+1)
			break
		}
		seen[name] = true
		name, owner = next, next
	}
	return w.res
}

func (w *walker) note(format string, args ...any) {
	if w.explain {
		w.res.Path = append(w.res.Path, fmt.Sprintf(format, args...))
	}
}

// responsible returns the zone for a name. DS at an apex belongs to the zone above, if we serve it.
func (w *walker) responsible(name string) *zone.Compiled {
	z := w.v.Find(name)
	if z != nil && w.q.Type == dns.TypeDS && z.Apex == name && name != "." {
		if above := w.v.Find(zone.Parent(name)); above != nil {
			return above
		}
	}
	return z
}

// inZone answers within one zone and returns the name to go on with, or "".
func (w *walker) inZone(z *zone.Compiled, name, owner string, first bool) (next string) {
	encloser := z.Apex
	// From the apex down; the first cut or DNAME met decides.
	for _, at := range downFrom(z.Apex, name) {
		n := z.Nodes[at]
		if n == nil {
			break
		}
		encloser = at
		if at != z.Apex && n.Has(dns.TypeNS) {
			if at == name && w.q.Type == dns.TypeDS {
				w.note("%s is a delegation; its DS record belongs to this side", at)
				w.data(z, n, owner)
				return ""
			}
			w.referral(z, at, n, first)
			return ""
		}
		if at != name && n.Has(dns.TypeDNAME) {
			return w.dname(n.Sets[dns.TypeDNAME][0], at, name, owner)
		}
	}
	if encloser == name {
		w.note("%s exists", name)
		return w.data(z, z.Nodes[name], owner)
	}
	star := z.Nodes["*."+encloser]
	if star == nil {
		w.note("%s does not exist below %s, and there is no wildcard there", name, encloser)
		w.res.Rcode = dns.RcodeNameError
		w.negative(z)
		return ""
	}
	w.note("%s does not exist; the wildcard *.%s answers for it", name, encloser)
	return w.data(z, star, owner)
}

// downFrom lists the names from the apex to name.
func downFrom(apex, name string) []string {
	var up []string
	for p := name; ; p = zone.Parent(p) {
		up = append(up, p)
		if p == apex || p == "" {
			break
		}
	}
	for i, j := 0, len(up)-1; i < j; i, j = i+1, j-1 {
		up[i], up[j] = up[j], up[i]
	}
	return up
}

// data answers from a name that exists, or from a wildcard with owner as the name.
func (w *walker) data(z *zone.Compiled, n *zone.Node, owner string) (next string) {
	if cn := n.Sets[dns.TypeCNAME]; len(cn) > 0 && w.q.Type != dns.TypeCNAME {
		target := cn[0].(*dns.CNAME).Target //nolint:forcetypeassert // the set holds what its key says
		w.note("it is a CNAME to %s", target)
		w.add(cn, owner)
		w.res.Rcode = dns.RcodeSuccess
		if w.q.Type == dns.TypeANY {
			return ""
		}
		return target
	}
	if w.q.Type == dns.TypeANY && len(n.Sets) > 0 {
		w.note("ANY is answered by a HINFO record (RFC 8482)")
		w.res.Answer = append(w.res.Answer, &dns.HINFO{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeHINFO,
			Class: dns.ClassINET, Ttl: z.Zone.DefaultTTL}, Cpu: "RFC8482"})
		return ""
	}
	set := n.Sets[w.q.Type]
	if len(set) == 0 {
		w.note("it has no %s record", zone.TypeName(w.q.Type))
		w.negative(z)
		return ""
	}
	w.note("it has %d %s record(s)", len(set), zone.TypeName(w.q.Type))
	w.add(set, owner)
	return ""
}

// add puts a set into the answer under a name.
func (w *walker) add(set []dns.RR, owner string) {
	for _, rr := range set {
		if rr.Header().Name != owner {
			rr = dns.Copy(rr)
			rr.Header().Name = owner
		}
		w.res.Answer = append(w.res.Answer, rr)
	}
}

// negative adds the SOA with the TTL of negative answers (RFC 2308 section 3).
func (w *walker) negative(z *zone.Compiled) {
	soa := *z.SOA
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
	w.res.Authority = append(w.res.Authority, &soa)
}

// referral points to the servers of a delegated zone, with the glue that lies inside ours.
func (w *walker) referral(z *zone.Compiled, at string, n *zone.Node, first bool) {
	w.note("%s is delegated; its servers are named", at)
	if first {
		w.res.AA = false
	}
	w.res.Authority = append(w.res.Authority, n.Sets[dns.TypeNS]...)
	if w.q.DO {
		w.res.Authority = append(w.res.Authority, n.Sets[dns.TypeDS]...)
	}
	for _, rr := range n.Sets[dns.TypeNS] {
		host := rr.(*dns.NS).Ns //nolint:forcetypeassert // the set holds what its key says
		if g := z.Nodes[host]; g != nil {
			w.res.Extra = append(w.res.Extra, g.Sets[dns.TypeA]...)
			w.res.Extra = append(w.res.Extra, g.Sets[dns.TypeAAAA]...)
		}
	}
}

// dname answers with the DNAME and a CNAME made of it (RFC 6672 section 3).
func (w *walker) dname(rr dns.RR, at, name, owner string) (next string) {
	d := rr.(*dns.DNAME) //nolint:forcetypeassert // the set holds what its key says
	w.res.Answer = append(w.res.Answer, d)
	prefix := strings.TrimSuffix(name, "."+at)
	if at == "." {
		prefix = strings.TrimSuffix(name, ".")
	}
	target := prefix + "." + d.Target
	if d.Target == "." {
		target = prefix + "."
	}
	if _, err := zone.Canonical(target); err != nil {
		w.note("the DNAME at %s makes a name of over 255 octets", at)
		w.res.Rcode = dns.RcodeYXDomain
		return ""
	}
	w.note("the DNAME at %s leads to %s", at, target)
	w.res.Answer = append(w.res.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME,
		Class: dns.ClassINET, Ttl: d.Hdr.Ttl}, Target: target})
	if w.q.Type == dns.TypeCNAME {
		return ""
	}
	return target
}
