package workspace

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const base = "metacircular.net/"

var services = []string{"mcias", "metacrypt", "mcr", "mc-proxy", "mcns", "mcp", "mcat"}

// root is the top of the workspace, two folders above this one.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tracked lists the files git knows below the root, as slash paths.
func tracked(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("git", "-C", root(t), "ls-files", "-z").Output()
	if err != nil {
		t.Skipf("the tree is not a git checkout: %v", err)
	}
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
}

func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatalf("parse %s: %v", file, err)
	}
	var paths []string
	for _, s := range f.Imports {
		p, err := strconv.Unquote(s.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// TestImports holds the borders of platform.md section 2: a component imports mcdsl and others' api modules, mcdsl
// only mcias/api, an api module nothing of ours.
func TestImports(t *testing.T) {
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		parts := strings.Split(name, "/")
		own := parts[0]
		for _, p := range imports(t, filepath.Join(root(t), filepath.FromSlash(name))) {
			if !strings.HasPrefix(p, base) {
				continue
			}
			rest := strings.Split(strings.TrimPrefix(p, base), "/")
			isAPI := len(rest) > 1 && rest[1] == "api"
			switch {
			case own == "e2e" || own == "bench" || own == "tools":
				if !isAPI && rest[0] != own && rest[0] != "mcdsl" {
					t.Errorf("%s imports %s: workspace tests drive the binaries, they import api modules and mcdsl only", name, p)
				}
			case len(parts) > 2 && parts[1] == "api":
				if rest[0] != own || !isAPI {
					t.Errorf("%s imports %s: an api module imports nothing of ours", name, p)
				}
			case own == "mcdsl":
				if rest[0] != "mcdsl" && !(rest[0] == "mcias" && isAPI) {
					t.Errorf("%s imports %s: mcdsl imports only mcias/api", name, p)
				}
			default:
				if rest[0] != own && rest[0] != "mcdsl" && !isAPI {
					t.Errorf("%s imports %s: a component imports mcdsl and api modules only", name, p)
				}
			}
		}
	}
}

// wrapped are libraries that mcdsl stands in front of, with the only folders that may import them.
var wrapped = map[string][]string{
	"modernc.org/sqlite":                         {"mcdsl/db", "mcdsl/archive"},
	"github.com/golang-jwt/":                     {},
	"github.com/docker/docker/":                  {},
	"github.com/grpc-ecosystem/grpc-gateway/v2/": {"mcdsl/gateway", "mcdsl/mctest", "mcdsl/cli", "mcdsl/grpcserver"},
}

func TestWrappedLibraries(t *testing.T) {
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "/api/") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, p := range imports(t, filepath.Join(root(t), filepath.FromSlash(name))) {
			for lib, homes := range wrapped {
				if !strings.HasPrefix(p, lib) {
					continue
				}
				allowed := false
				for _, h := range homes {
					allowed = allowed || strings.HasPrefix(name, h+"/")
				}
				if !allowed {
					t.Errorf("%s imports %s, which only %v may", name, p, homes)
				}
			}
		}
	}
}

// TestNoSkippedVerification greps for the switch that turns TLS into theatre, the build-up of the word included.
func TestNoSkippedVerification(t *testing.T) {
	word := "Insecure" + "SkipVerify"
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(word)) {
			t.Errorf("%s contains %s", name, word)
		}
	}
}

// TestMainIsShort keeps main to wiring: under 60 lines.
func TestMainIsShort(t *testing.T) {
	for _, s := range services {
		name := filepath.Join(root(t), s, "cmd", s, "main.go")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Errorf("%s has no main: %v", s, err)
			continue
		}
		if n := bytes.Count(data, []byte("\n")); n >= 60 {
			t.Errorf("%s/cmd/%s/main.go has %d lines, want under 60", s, s, n)
		}
	}
}

// TestComponentDocuments wants the same documents in each component.
func TestComponentDocuments(t *testing.T) {
	for _, c := range append([]string{"mcdsl"}, services...) {
		for _, f := range []string{"README.md", "ARCHITECTURE.md", "RUNBOOK.md", "CLAUDE.md", "Makefile", "go.mod"} {
			if _, err := os.Stat(filepath.Join(root(t), c, f)); err != nil {
				t.Errorf("%s/%s is missing", c, f)
			}
		}
	}
}

// TestPackagesAreDocumented wants a package comment in each package that ships.
func TestPackagesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.Contains(name, "/api/") {
			continue
		}
		dir := filepath.ToSlash(filepath.Dir(name))
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), filepath.FromSlash(name)), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		documented[dir] = documented[dir] || hasText(f.Doc)
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
}

func hasText(g *ast.CommentGroup) bool { return g != nil && strings.TrimSpace(g.Text()) != "" }

var testName = regexp.MustCompile("`((?:Test|Fuzz|Benchmark|Example)[A-Za-z0-9_]*)`")

// TestPromises reads docs/promises.md: each row names a test that exists, or says "not yet".
func TestPromises(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root(t), "docs", "promises.md"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	decl := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark|Example)[A-Za-z0-9_]*)\(`)
	for _, name := range tracked(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range decl.FindAllSubmatch(src, -1) {
			have[strings.Split(name, "/")[0]+"."+string(m[1])] = true
		}
	}
	component, rows := "", 0
	for i, line := range strings.Split(string(data), "\n") {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			component = strings.TrimSpace(h)
			continue
		}
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise") || strings.HasPrefix(line, "|--") || strings.HasPrefix(line, "| --") {
			continue
		}
		rows++
		names := testName.FindAllStringSubmatch(line, -1)
		if len(names) == 0 && !strings.Contains(line, "not yet") {
			t.Errorf("docs/promises.md:%d names neither a test nor \"not yet\"", i+1)
		}
		for _, m := range names {
			if !have[component+"."+m[1]] && !have["e2e."+m[1]] && !have["mcdsl."+m[1]] {
				t.Errorf("docs/promises.md:%d: %s has no test %s", i+1, component, m[1])
			}
		}
	}
	if rows == 0 {
		t.Error("docs/promises.md has no rows")
	}
}
