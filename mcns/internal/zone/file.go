package zone

import (
	"fmt"
	"io"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"
)

// maxFileRecords bounds what a zone file may hold, $GENERATE counted.
const maxFileRecords = 1_000_000

// Import is a parsed zone file.
type Import struct {
	Records  []Record // owner empty
	Warnings []Warning
}

// ParseFile reads a zone file (RFC 1035 section 5). $INCLUDE is off. The SOA is left out: serial and timers
// are ours. Names outside the zone are skipped with a warning; the first TTL of a set wins.
func ParseFile(r io.Reader, apex string) (*Import, error) {
	zp := dns.NewZoneParser(r, apex, "")
	zp.SetDefaultTTL(DefaultTTL)
	out := &Import{}
	ttls := map[Key]uint32{}
	seen := map[string]bool{}
	warn := func(code string, rr dns.RR, format string, args ...any) {
		if len(out.Warnings) < 100 {
			out.Warnings = append(out.Warnings, Warning{Code: code, Name: Plain(rr.Header().Name), Type: TypeName(rr.Header().Rrtype), Text: fmt.Sprintf(format, args...)})
		}
	}
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		h := rr.Header()
		if h.Rrtype == dns.TypeSOA {
			continue
		}
		if len(out.Records) >= maxFileRecords {
			return nil, fault.New(fault.Exhausted, "a zone file has at most %d records", maxFileRecords)
		}
		name, err := Canonical(h.Name)
		if err != nil {
			return nil, err
		}
		if !Below(name, apex) {
			warn("OUT_OF_ZONE", rr, "it lies outside the zone and was skipped")
			continue
		}
		if h.Ttl > MaxTTL {
			warn("TTL", rr, "a TTL over %d counts as 0 (RFC 2181)", uint32(MaxTTL))
			h.Ttl = 0
		}
		k := Key{name, h.Rrtype}
		if t, ok := ttls[k]; ok && t != h.Ttl {
			warn("TTL", rr, "the set has the TTL %d of its first record", t)
			h.Ttl = t
		}
		ttls[k] = h.Ttl
		_, text, err := ParseValue(name, h.Rrtype, h.Ttl, Text(rr), apex)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", Plain(name), TypeName(h.Rrtype), err)
		}
		id := fmt.Sprintf("%s %d %s", name, h.Rrtype, text)
		if seen[id] {
			continue // an exact duplicate is one record
		}
		seen[id] = true
		out.Records = append(out.Records, Record{Name: name, Type: h.Rrtype, TTL: h.Ttl, Text: text})
	}
	if err := zp.Err(); err != nil {
		return nil, fault.Field1("text", "%s", err.Error())
	}
	return out, nil
}

// WriteFile writes a zone in canonical order: SOA, NS, then the rest, class always IN.
func WriteFile(w io.Writer, z *Zone, include func(Record) bool) error {
	line := func(r Record) error {
		_, err := fmt.Fprintf(w, "%s\t%d\tIN\t%s\t%s\n", r.Name, r.TTL, TypeName(r.Type), r.Text)
		return err
	}
	if err := line(Record{Name: z.Name, TTL: z.DefaultTTL, Type: dns.TypeSOA, Text: Text(z.SOA())}); err != nil {
		return err
	}
	rs := append([]Record(nil), z.Records...)
	Sort(rs)
	for _, first := range []bool{true, false} {
		for _, r := range rs {
			if (r.Name == z.Name && r.Type == dns.TypeNS) != first || !include(r) {
				continue
			}
			if err := line(r); err != nil {
				return err
			}
		}
	}
	return nil
}
