package answer_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"metacircular.net/mcns/internal/answer"
	"metacircular.net/mcns/internal/zone"
)

func compile(t testing.TB, apex string, lines ...string) *zone.Compiled {
	t.Helper()
	z := &zone.Zone{Name: apex, MName: "ns." + apex, RName: "h." + apex, Minimum: 60, DefaultTTL: 300, Serial: 7}
	for _, l := range lines {
		p := strings.SplitN(l, " ", 3)
		name, err := zone.Absolute(p[0], apex)
		if err != nil {
			t.Fatal(err)
		}
		z.Records = append(z.Records, zone.Record{Name: name, Type: dns.StringToType[p[1]], TTL: 300, Text: p[2]})
	}
	c, _, err := zone.Compile(z)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func view(t testing.TB) *zone.View {
	return zone.NewView(
		compile(t, "z.", "@ NS ns", "ns A 10.0.0.1", "www A 10.0.0.2", "www A 10.0.0.3", "a.b.c A 10.0.0.4",
			"*.w A 10.0.0.5", "*.w TXT w", "x.w A 10.0.0.6", "y.x.w A 10.0.0.7", "a.*.e A 10.0.0.8",
			"cn CNAME www", "cn2 CNAME cn", "out CNAME far.example.", "gone CNAME nothing", "loop1 CNAME loop2", "loop2 CNAME loop1",
			"*.wc CNAME www", "other CNAME x.sub.z.", "into CNAME host.two.",
			"sub NS ns.sub", "sub NS ns.far.example.", "ns.sub A 10.0.0.9", "sub DS 1 13 2 "+strings.Repeat("00", 32), "d DNAME two.", "child NS ns.child", "ns.child A 10.0.0.9"),
		compile(t, "two.", "@ NS ns.z.", "host A 10.0.1.1", "www CNAME host"),
		compile(t, "child.z.", "@ NS ns", "ns A 10.0.2.1", "h A 10.0.2.2"))
}

// show writes a result in one line: rcode, AA, answers | authority | additional.
func show(r answer.Result) string {
	list := func(rrs []dns.RR) string {
		var out []string
		for _, rr := range rrs {
			out = append(out, rr.Header().Name+" "+dns.TypeToString[rr.Header().Rrtype]+" "+strings.Split(zone.Text(rr), " ")[0])
		}
		slices.Sort(out)
		return strings.Join(out, ", ")
	}
	aa := "-"
	if r.AA {
		aa = "AA"
	}
	s := fmt.Sprintf("%s %s [%s] [%s] [%s]", dns.RcodeToString[r.Rcode], aa, list(r.Answer), list(r.Authority), list(r.Extra))
	if r.Follow != "" {
		s += " -> " + r.Follow
	}
	return s
}

func TestLookup(t *testing.T) {
	t.Parallel()
	v := view(t)
	const soa = "[z. SOA ns.z.]"
	for _, tc := range []struct {
		name, typ string
		do        bool
		want      string
	}{
		{"www.z.", "A", false, "NOERROR AA [www.z. A 10.0.0.2, www.z. A 10.0.0.3] [] []"},
		{"WwW.Z.", "A", false, "NOERROR AA [WwW.Z. A 10.0.0.2, WwW.Z. A 10.0.0.3] [] []"},
		{"www.z.", "AAAA", false, "NOERROR AA [] " + soa + " []"},
		{"nope.z.", "A", false, "NXDOMAIN AA [] " + soa + " []"},
		{"b.c.z.", "A", false, "NOERROR AA [] " + soa + " []"}, // empty non-terminal
		{"z.b.c.z.", "A", false, "NXDOMAIN AA [] " + soa + " []"},
		{"q.w.z.", "A", false, "NOERROR AA [q.w.z. A 10.0.0.5] [] []"},
		{"q.r.w.z.", "A", false, "NOERROR AA [q.r.w.z. A 10.0.0.5] [] []"},
		{"q.w.z.", "MX", false, "NOERROR AA [] " + soa + " []"},
		{"x.w.z.", "TXT", false, "NOERROR AA [] " + soa + " []"},    // an existing name is not covered
		{"q.x.w.z.", "A", false, "NXDOMAIN AA [] " + soa + " []"},   // nor what is below one
		{"q.y.x.w.z.", "A", false, "NXDOMAIN AA [] " + soa + " []"}, // closest encloser has no wildcard
		{"*.w.z.", "A", false, "NOERROR AA [*.w.z. A 10.0.0.5] [] []"},
		{"q.e.z.", "A", false, "NOERROR AA [] " + soa + " []"}, // the wildcard exists, empty
		{"a.q.e.z.", "A", false, "NOERROR AA [] " + soa + " []"},
		{"cn.z.", "A", false, "NOERROR AA [cn.z. CNAME www.z., www.z. A 10.0.0.2, www.z. A 10.0.0.3] [] []"},
		{"cn.z.", "CNAME", false, "NOERROR AA [cn.z. CNAME www.z.] [] []"},
		{"cn.z.", "ANY", false, "NOERROR AA [cn.z. CNAME www.z.] [] []"},
		{"www.z.", "ANY", false, `NOERROR AA [www.z. HINFO "RFC8482"] [] []`},
		{"cn2.z.", "AAAA", false, "NOERROR AA [cn.z. CNAME www.z., cn2.z. CNAME cn.z.] " + soa + " []"},
		{"gone.z.", "A", false, "NXDOMAIN AA [gone.z. CNAME nothing.z.] " + soa + " []"},
		{"out.z.", "A", false, "NOERROR AA [out.z. CNAME far.example.] [] [] -> far.example."},
		{"loop1.z.", "A", false, "NOERROR AA [loop1.z. CNAME loop2.z., loop2.z. CNAME loop1.z.] [] []"},
		{"q.wc.z.", "A", false, "NOERROR AA [q.wc.z. CNAME www.z., www.z. A 10.0.0.2, www.z. A 10.0.0.3] [] []"},
		{"into.z.", "A", false, "NOERROR AA [host.two. A 10.0.1.1, into.z. CNAME host.two.] [] []"},
		{"q.sub.z.", "A", false, "NOERROR - [] [sub.z. NS ns.far.example., sub.z. NS ns.sub.z.] [ns.sub.z. A 10.0.0.9]"},
		{"sub.z.", "NS", false, "NOERROR - [] [sub.z. NS ns.far.example., sub.z. NS ns.sub.z.] [ns.sub.z. A 10.0.0.9]"},
		{"ns.sub.z.", "A", false, "NOERROR - [] [sub.z. NS ns.far.example., sub.z. NS ns.sub.z.] [ns.sub.z. A 10.0.0.9]"},
		{"sub.z.", "DS", false, "NOERROR AA [sub.z. DS 1] [] []"},
		{"q.sub.z.", "A", true, "NOERROR - [] [sub.z. DS 1, sub.z. NS ns.far.example., sub.z. NS ns.sub.z.] [ns.sub.z. A 10.0.0.9]"},
		{"other.z.", "A", false, "NOERROR AA [other.z. CNAME x.sub.z.] [sub.z. NS ns.far.example., sub.z. NS ns.sub.z.] [ns.sub.z. A 10.0.0.9]"},
		{"www.d.z.", "A", false, "NOERROR AA [d.z. DNAME two., host.two. A 10.0.1.1, www.d.z. CNAME www.two., www.two. CNAME host.two.] [] []"},
		{"d.z.", "A", false, "NOERROR AA [] " + soa + " []"},
		{"d.z.", "DNAME", false, "NOERROR AA [d.z. DNAME two.] [] []"},
		{"h.child.z.", "A", false, "NOERROR AA [h.child.z. A 10.0.2.2] [] []"}, // the longest apex wins
		{"child.z.", "DS", false, "NOERROR AA [] " + soa + " []"},              // and the parent answers DS
		{"z.", "DS", false, "NOERROR AA [] " + soa + " []"},
		{"z.", "SOA", false, "NOERROR AA [z. SOA ns.z.] [] []"},
	} {
		got := show(answer.Lookup(v, answer.Question{Name: tc.name, Type: dns.StringToType[tc.typ], DO: tc.do}, true))
		if got != tc.want {
			t.Errorf("%s %s\n got %s\nwant %s", tc.name, tc.typ, got, tc.want)
		}
	}
	if r := answer.Lookup(v, answer.Question{Name: "elsewhere.", Type: dns.TypeA}, false); r.Found {
		t.Error("a name outside our zones was found")
	}
}

func TestDNAMETooLong(t *testing.T) {
	t.Parallel()
	target := strings.Repeat(strings.Repeat("t", 60)+".", 3)
	v := zone.NewView(compile(t, "z.", "@ NS ns", "d DNAME "+target))
	r := answer.Lookup(v, answer.Question{Name: strings.Repeat("x", 60) + "." + strings.Repeat("y", 60) + ".d.z.", Type: dns.TypeA}, false)
	if r.Rcode != dns.RcodeYXDomain || len(r.Answer) != 1 {
		t.Errorf("got %s", show(r))
	}
}

// Negative answers carry the lesser of the SOA's own TTL and its minimum.
func TestNegativeTTL(t *testing.T) {
	t.Parallel()
	r := answer.Lookup(view(t), answer.Question{Name: "nope.z.", Type: dns.TypeA}, false)
	if len(r.Authority) != 1 || r.Authority[0].Header().Ttl != 60 {
		t.Errorf("authority %v", r.Authority)
	}
}

func BenchmarkLookup(b *testing.B) {
	v := view(b)
	q := answer.Question{Name: "www.z.", Type: dns.TypeA}
	for b.Loop() {
		answer.Lookup(v, q, false)
	}
}
