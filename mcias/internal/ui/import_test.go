package ui_test

import (
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestPagesKnowTheContractOnly: a page gets the verdict that REST and gRPC get, because it can do nothing else.
func TestPagesKnowTheContractOnly(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.Name(), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range parsed.Imports {
			if strings.Contains(i.Path.Value, "metacircular.net/mcias/internal") {
				t.Errorf("%s imports %s", f.Name(), i.Path.Value)
			}
		}
	}
}
