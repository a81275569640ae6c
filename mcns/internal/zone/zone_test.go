package zone_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcns/internal/zone"
)

const apex = "lab.example."

// build makes a zone of lines "name type value".
func build(t testing.TB, lines ...string) *zone.Zone {
	t.Helper()
	z := &zone.Zone{Name: apex, MName: "ns." + apex, RName: "hostmaster." + apex, Minimum: 300, DefaultTTL: 300, Serial: 1}
	for _, l := range append([]string{"@ NS ns." + apex}, lines...) {
		p := strings.SplitN(l, " ", 3)
		name, err := zone.Absolute(p[0], apex)
		if err != nil {
			t.Fatal(err)
		}
		typ, err := zone.ParseType(p[1])
		if err != nil {
			t.Fatal(err)
		}
		z.Records = append(z.Records, zone.Record{Name: name, Type: typ, TTL: 300, Text: p[2], Owner: "operator"})
	}
	return z
}

// What named-checkzone refuses we refuse, what it warns about we accept with a warning.
func TestCompileVerdicts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 256)
	for _, tc := range []struct {
		name    string
		lines   []string
		refused bool
		warning string
	}{
		{name: "plain", lines: []string{"ns A 10.0.0.1", "www A 10.0.0.2", "www A 10.0.0.3", "www AAAA fd00::1"}},
		{name: "CNAME beside data", lines: []string{"a CNAME b", "a A 10.0.0.1"}, refused: true},
		{name: "CNAME at the apex", lines: []string{"@ CNAME b"}, refused: true},
		{name: "two CNAMEs", lines: []string{"a CNAME b", "a CNAME c"}, refused: true},
		{name: "two DNAMEs", lines: []string{"a DNAME b.", "a DNAME c."}, refused: true},
		{name: "below DNAME", lines: []string{"a DNAME b.", "x.a A 10.0.0.1"}, refused: true},
		{name: "DNAME at cut", lines: []string{"a DNAME b.", "a NS c."}, refused: true},
		{name: "wildcard NS", lines: []string{"* NS c."}, refused: true},
		{name: "DS at apex", lines: []string{"@ DS 1 13 2 " + strings.Repeat("00", 32)}, refused: true},
		{name: "DS without NS", lines: []string{"a DS 1 13 2 " + strings.Repeat("00", 32)}, refused: true},
		{name: "second SOA", lines: []string{"@ SOA a. b. 1 1 1 1 1"}, refused: true},
		{name: "empty TXT string", lines: []string{`a TXT ""`}},
		{name: "long TXT string", lines: []string{`a TXT "` + long + `"`}, refused: true},
		{name: "long label", lines: []string{"a CNAME " + strings.Repeat("y", 64) + ".example."}, refused: true},
		{name: "CAA flag", lines: []string{`a CAA 256 issue "x"`}, refused: true},
		{name: "bad address", lines: []string{"a A 10.0.0.256"}, refused: true},
		{name: "AAAA with IPv4", lines: []string{"a AAAA 10.0.0.1"}, refused: true},
		{name: "mandatory unmet", lines: []string{"a HTTPS 1 . mandatory=alpn"}, refused: true},
		{name: "mandatory met", lines: []string{"a HTTPS 1 . mandatory=alpn alpn=h2"}},
		{name: "unknown type", lines: []string{`a TYPE65400 \# 3 010203`}},
		{name: "known type as unknown", lines: []string{`a A \# 4 0a000001`}},
		{name: "known type, wrong length", lines: []string{`a A \# 3 0a0000`}, refused: true},
		{name: "RRSIG", lines: []string{"a RRSIG A 13 2 300 20260101000000 20250101000000 1 lab.example. AAAA"}, refused: true},
		{name: "two lines", lines: []string{"a A 10.0.0.1\nb A 10.0.0.2"}, refused: true},
		{name: "duplicate", lines: []string{"a A 10.0.0.1", "a A 10.0.0.1"}, refused: true},
		{name: "dangling MX", lines: []string{"@ MX 10 nothing." + apex}, warning: "DANGLING_TARGET"},
		{name: "MX to CNAME", lines: []string{"@ MX 10 m." + apex, "m CNAME www.example.org."}, warning: "TARGET_IS_CNAME"},
		{name: "occluded", lines: []string{"sub NS ns.sub." + apex, "ns.sub A 10.0.0.1", "x.sub TXT y"}, warning: "OCCLUDED"},
	} {
		_, warnings, err := zone.Compile(build(t, tc.lines...))
		if tc.refused != (err != nil) {
			t.Errorf("%s: Compile = %v, want refused %v", tc.name, err, tc.refused)
			continue
		}
		if err != nil && !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Exists) {
			t.Errorf("%s: %v is of the wrong kind", tc.name, err)
		}
		found := tc.warning == ""
		for _, w := range warnings {
			found = found || w.Code == tc.warning
		}
		if !found {
			t.Errorf("%s: warnings %v, want %s", tc.name, warnings, tc.warning)
		}
	}
	z := build(t)
	z.Records = nil
	if _, _, err := zone.Compile(z); err == nil {
		t.Error("a zone without NS was accepted")
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"WWW": "www." + apex, "@": apex, "": apex, "a.b": "a.b." + apex, `\065x`: "ax." + apex, "www." + apex: "www." + apex} {
		if got, err := zone.Absolute(in, apex); err != nil || got != want {
			t.Errorf("Absolute(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"a..b", strings.Repeat("x", 64), "www.other.example.", strings.Repeat("abc.", 70)} {
		if got, err := zone.Absolute(in, apex); err == nil {
			t.Errorf("Absolute(%q) = %q, want an error", in, got)
		}
	}
	if zone.Below("xlab.example.", apex) || !zone.Below("x."+apex, apex) || !zone.Below(apex, ".") {
		t.Error("Below compares text, not labels")
	}
}

func TestSerial(t *testing.T) {
	t.Parallel()
	day := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ old, want uint32 }{
		{0, 2026112500}, {2026112500, 2026112501}, {2026112400, 2026112500}, {2026112599, 2026112600}, {4294967295, 2026112500},
		{2026112500 + 1<<31 - 1, 2026112500 + 1<<31},
	} {
		got := zone.NextSerial(tc.old, day)
		if got != tc.want || tc.old != 0 && !zone.Newer(got, tc.old) {
			t.Errorf("NextSerial(%d) = %d, want %d and newer", tc.old, got, tc.want)
		}
	}
}

func TestFileRoundTrip(t *testing.T) {
	t.Parallel()
	z := build(t, "ns A 10.0.0.1", `a TXT "x \"y\" \255" "z"`, `a TYPE65400 \# 3 010203`, "*.w MX 10 ns."+apex, "w HTTPS 1 . alpn=h2 port=8443",
		"_x._tcp SRV 0 0 1 ns."+apex, `odd\.name A 10.0.0.2`, "h SSHFP 4 2 "+strings.Repeat("ab", 32))
	if _, _, err := zone.Compile(z); err != nil {
		t.Fatal(err)
	}
	all := func(zone.Record) bool { return true }
	var first, second bytes.Buffer
	var raw bytes.Buffer
	if err := zone.WriteFile(&raw, z, all); err != nil {
		t.Fatal(err)
	}
	canonical, err := zone.ParseFile(strings.NewReader(raw.String()), apex) // as a write would store it
	if err != nil {
		t.Fatal(err)
	}
	if err := zone.WriteFile(&first, z.With(canonical.Records), all); err != nil {
		t.Fatal(err)
	}
	imp, err := zone.ParseFile(strings.NewReader(first.String()), apex)
	if err != nil {
		t.Fatal(err)
	}
	if len(imp.Records) != len(z.Records) || len(imp.Warnings) != 0 {
		t.Errorf("import: %d records of %d, warnings %v", len(imp.Records), len(z.Records), imp.Warnings)
	}
	if err := zone.WriteFile(&second, z.With(imp.Records), all); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() {
		t.Errorf("export, import, export differ:\n%s\n%s", first.String(), second.String())
	}
}

func TestFileWarnings(t *testing.T) {
	t.Parallel()
	imp, err := zone.ParseFile(strings.NewReader("a 60 IN A 10.0.0.1\na 90 IN A 10.0.0.2\nx.other. 60 IN A 10.0.0.1\nb 4000000000 IN A 10.0.0.1\n"), apex)
	if err != nil {
		t.Fatal(err)
	}
	if len(imp.Records) != 3 || imp.Records[1].TTL != 60 || imp.Records[2].TTL != 0 || len(imp.Warnings) != 3 {
		t.Errorf("records %+v, warnings %v", imp.Records, imp.Warnings)
	}
	for _, text := range []string{"$INCLUDE /etc/passwd\n", "a IN A\n", "a IN CNAME\n"} {
		if _, err := zone.ParseFile(strings.NewReader(text), apex); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add("a 60 IN A 10.0.0.1\n$GENERATE 1-3 h$ A 10.0.0.$\n")
	f.Add("@ IN SOA a b 1 2 3 4 5\n* TXT \"x\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 || strings.Contains(text, "GENERATE") {
			return
		}
		imp, err := zone.ParseFile(strings.NewReader(text), apex)
		if err != nil {
			return
		}
		for _, r := range imp.Records {
			if r.Type == dns.TypeSOA || !zone.Below(r.Name, apex) {
				t.Errorf("%+v got in", r)
			}
			if _, again, err := zone.ParseValue(r.Name, r.Type, r.TTL, r.Text, apex); err != nil || again != r.Text {
				t.Errorf("%q parses as %q, %v", r.Text, again, err)
			}
		}
	})
}
