package hostmap_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"metacircular.net/mcdsl/cli/hostmap"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "hosts")
	text := "# core\n127.0.0.5 mcias.lab.example MCR.lab.example. # two\n::1 mcr.lab.example\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m := hostmap.Open(file)
	for _, tc := range []struct{ name, want string }{
		{"mcias.lab.example", "127.0.0.5"},
		{"mcr.LAB.example.", "127.0.0.5 ::1"},
		{"other.lab.example", ""},
		{"mcp.mc.localhost", "127.0.0.1 ::1"},
		{"localhost.example", ""},
	} {
		got, err := m.Lookup(tc.name)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, a := range got {
			texts = append(texts, a.String())
		}
		if d := cmp.Diff(tc.want, strings.Join(texts, " ")); d != "" {
			t.Errorf("Lookup(%s): %s", tc.name, d)
		}
	}
}

func TestFileAppearsAndChanges(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "hosts")
	m := hostmap.Open(file)
	for _, step := range []struct {
		text string
		want int
		bad  bool
	}{{"", 0, false}, {"10.0.0.1 a.test\n", 1, false}, {"10.0.0.1 a.test\n10.0.0.2 a.test\n", 2, false}, {"nonsense a.test\n", 0, true}} {
		if step.text != "" {
			if err := os.WriteFile(file, []byte(step.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := m.Lookup("a.test")
		if len(got) != step.want || (err != nil) != step.bad {
			t.Errorf("with %q: Lookup = %v, %v; want %d addresses, error %v", step.text, got, err, step.want, step.bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "127.0.0.1 a b\n", "# c\n::1 x.\n", "1.2.3 a", "10.0.0.1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		names, err := hostmap.Parse(strings.NewReader(s))
		if err != nil {
			return
		}
		for name, addrs := range names {
			if name == "" && len(addrs) == 0 || len(addrs) == 0 || addrs[0] == (netip.Addr{}) {
				t.Errorf("Parse(%q) holds %q = %v", s, name, addrs)
			}
		}
	})
}
