package ident_test

import (
	"testing"

	"metacircular.net/metacrypt/internal/ident"
)

func TestCanonicalForm(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Blog.MC.Localhost.": "blog.mc.localhost", "bücher.example": "xn--bcher-kva.example", "::ffff:10.0.0.1": "10.0.0.1",
		"2001:DB8:0::1": "2001:db8::1", "*.Apps.example": "*.apps.example",
	} {
		n, err := ident.Parse(in)
		if err != nil || n.String() != want {
			t.Errorf("Parse(%q) = %q, %v, want %q", in, n, err, want)
		}
	}
	for _, in := range []string{"", ".", "a..b", "-a.b", "a b.c", "a.b/..", "fe80::1%eth0", "1.2.3.400", "*.", "*.com", "*.*.a.b",
		"a.*.b", "a%2eb", "under_score.example", "\x00.example", "**.a.b"} {
		if n, err := ident.Parse(in); err == nil {
			t.Errorf("Parse(%q) = %q, want refusal", in, n)
		}
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"blog.x.org", "BLOG.x.org.", true}, {"blog.x.org", "a.blog.x.org", false},
		{"*.x.org", "blog.x.org", true}, {"*.x.org", "a.blog.x.org", false}, {"*.x.org", "x.org", false}, {"*.x.org", "*.x.org", false},
		{"*.x.org", "evilx.org", false}, {"**.x.org", "a.b.c.x.org", true}, {"**.x.org", "x.org", false}, {"**.x.org", "*.x.org", false},
		{"wildcard:*.x.org", "*.x.org", true}, {"wildcard:*.x.org", "a.x.org", false},
		{"10.0.0.0/8", "10.1.2.3", true}, {"10.0.0.0/8", "::ffff:10.1.2.3", true}, {"10.0.0.0/8", "11.0.0.1", false},
		{"10.0.0.1", "10.0.0.1", true}, {"**.x.org", "10.0.0.1", false},
	} {
		p, err := ident.ParsePattern(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		n, err := ident.Parse(tc.name)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(n); got != tc.want {
			t.Errorf("%s matches %s = %v, want %v", tc.pattern, tc.name, got, tc.want)
		}
	}
	for _, bad := range []string{"", "*", "**", "*.*", "10.0.0.1/8", "*.10.0.0.1", "wildcard:x.org", "***.x.org", "::ffff:1.2.3.0/120"} {
		if p, err := ident.ParsePattern(bad); err == nil {
			t.Errorf("ParsePattern(%q) = %q, want refusal", bad, p)
		}
	}
}

func TestReservedNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"mc.localhost": true, "*.mc.localhost": true, "mcias.mc.localhost": true, "x.mcias.mc.localhost": true, "a.node.mc.localhost": true,
		"MCIAS.mc.localhost.": true, "blog.mc.localhost": false, "mcias.blog.mc.localhost": false, "mcias.example.org": false, "10.0.0.1": false,
	} {
		n, err := ident.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := ident.Reserved(n, []string{"mc.localhost"}); got != want {
			t.Errorf("Reserved(%s) = %v, want %v", name, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a.b", "*.a.b", "::1", "10.0.0.0/8", "wildcard:*.a.b", "**.a", "xn--a.b", "ä.b."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ident.Parse(s); err == nil {
			again, err := ident.Parse(n.String())
			if err != nil || again != n {
				t.Errorf("Parse(%q) = %q is not canonical: %q, %v", s, n, again, err)
			}
		}
		if p, err := ident.ParsePattern(s); err == nil {
			if again, err := ident.ParsePattern(p.String()); err != nil || again != p {
				t.Errorf("ParsePattern(%q) = %q is not canonical", s, p)
			}
		}
	})
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"a", "apps/blog/db", "Ünïcode/x", "a b/c"} {
		if err := ident.Path(ok); err != nil {
			t.Errorf("Path(%q) = %v", ok, err)
		}
	}
	for _, bad := range []string{"", "/a", "a/", "a//b", ".", "a/../b", "a/./b", "a%2fb", "a\x00b", "a\nb", "u\u0308", "a*", "\xff", `a\b`, "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q"} {
		if err := ident.Path(bad); err == nil {
			t.Errorf("Path(%q) is accepted", bad)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("a/b")
	f.Add("a/../b")
	f.Fuzz(func(_ *testing.T, s string) { _ = ident.Path(s) })
}
