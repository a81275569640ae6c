package forward

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"metacircular.net/mcns/internal/zone"
)

// specialTTL is the TTL of answers made here.
const specialTTL = 300

// special answers names that must never leave this machine (RFC 6303, 6761, 7686, 8375, 9462).
// A zone or a [[forward]] of ours comes first.
func special(name string, qtype uint16) (Answer, bool) {
	hdr := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: specialTTL}
	}
	if zone.Below(name, "localhost.") {
		switch qtype {
		case dns.TypeA:
			return Answer{Answer: []dns.RR{&dns.A{Hdr: hdr(dns.TypeA), A: []byte{127, 0, 0, 1}}}}, true
		case dns.TypeAAAA:
			return Answer{Answer: []dns.RR{&dns.AAAA{Hdr: hdr(dns.TypeAAAA), AAAA: netip.IPv6Loopback().AsSlice()}}}, true
		}
		return Answer{Ns: soaOf("localhost.")}, true
	}
	for _, apex := range []string{"invalid.", "onion.", "local.", "test.", "home.arpa.", "internal.", "resolver.arpa."} {
		if zone.Below(name, apex) {
			return Answer{Rcode: dns.RcodeNameError, Ns: soaOf(apex)}, true
		}
	}
	if apex := privateReverse(name); apex != "" {
		return Answer{Rcode: dns.RcodeNameError, Ns: soaOf(apex)}, true
	}
	return Answer{}, false
}

func soaOf(apex string) []dns.RR {
	return []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: apex, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: specialTTL},
		Ns: apex, Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 1200, Expire: 604800, Minttl: specialTTL}}
}

// privateReverse returns the reverse zone of private addresses a name lies in (RFC 6303), or "".
func privateReverse(name string) string {
	for _, apex := range []string{"10.in-addr.arpa.", "168.192.in-addr.arpa.", "127.in-addr.arpa.", "254.169.in-addr.arpa.",
		"0.in-addr.arpa.", "2.0.192.in-addr.arpa.", "100.51.198.in-addr.arpa.", "113.0.203.in-addr.arpa.", "255.255.255.255.in-addr.arpa.",
		"d.f.ip6.arpa.", "8.e.f.ip6.arpa.", "9.e.f.ip6.arpa.", "a.e.f.ip6.arpa.", "b.e.f.ip6.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa.",
		strings.Repeat("0.", 32) + "ip6.arpa.", "1." + strings.Repeat("0.", 31) + "ip6.arpa."} {
		if zone.Below(name, apex) {
			return apex
		}
	}
	if zone.Below(name, "172.in-addr.arpa.") {
		for n := 16; n < 32; n++ {
			if apex := fmt.Sprintf("%d.172.in-addr.arpa.", n); zone.Below(name, apex) {
				return apex
			}
		}
	}
	return ""
}
