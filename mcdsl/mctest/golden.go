package mctest

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Golden compares got with testdata/<name>. With MC_UPDATE=1 in the environment it writes the file instead; look
// at the difference before you commit it.
func Golden(t testing.TB, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", filepath.FromSlash(name))
	if os.Getenv("MC_UPDATE") == "1" {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("golden file: %v (make it with MC_UPDATE=1 go test)", err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s differs (-want +got; accept with MC_UPDATE=1 go test):\n%s", path, cmp.Diff(string(want), string(got)))
	}
}
