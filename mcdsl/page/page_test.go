package page_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/page"
)

func list(p page.Page, all []string) ([]string, string) {
	var rows []string
	for _, s := range all {
		if s > p.After(0) && len(rows) < p.Limit() {
			rows = append(rows, s)
		}
	}
	return page.Next(p, rows, func(s string) []string { return []string{s} })
}

func TestWalk(t *testing.T) {
	t.Parallel()
	all := []string{"a", "b", "c", "d", "e"}
	var got []string
	tok := ""
	for range 10 {
		p, err := page.Parse(2, tok, "q")
		if err != nil {
			t.Fatal(err)
		}
		var rows []string
		rows, tok = list(p, all)
		got = append(got, rows...)
		if tok == "" {
			break
		}
	}
	if !slices.Equal(got, all) {
		t.Errorf("walk = %v, want %v", got, all)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	p, err := page.Parse(1, "", "filter-a")
	if err != nil {
		t.Fatal(err)
	}
	_, tok := list(p, []string{"a", "b"})
	for name, tc := range map[string]struct {
		size     int32
		token    string
		question string
	}{
		"other filter": {1, tok, "filter-b"},
		"negative":     {-1, "", "filter-a"},
		"garbage":      {1, "%%%", "filter-a"},
		"empty":        {1, "e30", "filter-a"},
		"long":         {1, strings.Repeat("a", 5000), "filter-a"},
	} {
		if _, err := page.Parse(tc.size, tc.token, tc.question); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	if p, err := page.Parse(9999, ""); err != nil || p.Size() != page.MaxSize {
		t.Errorf("size is not capped: %d, %v", p.Size(), err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(int32(1), "e30")
	f.Add(int32(0), "eyJhIjpbIngiXSwiYiI6IiJ9")
	f.Fuzz(func(t *testing.T, size int32, tok string) {
		p, err := page.Parse(size, tok, "q")
		if err == nil && (p.Size() < 1 || p.Size() > page.MaxSize) {
			t.Errorf("size %d", p.Size())
		}
	})
}

func ExampleNext() {
	p, err := page.Parse(2, "", "zones")
	rows, next := page.Next(p, []string{"a", "b", "c"}, func(s string) []string { return []string{s} })
	fmt.Println(rows, next != "", err)
	// Output: [a b] true <nil>
}
