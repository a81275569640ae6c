package proc_test

import (
	"os"
	"testing"

	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/engine/enginetest"
	"metacircular.net/mcp/internal/engine/proc"
	"metacircular.net/mcp/internal/oci"
)

// TestMain lets this binary be shim and init, as mcp's main does.
func TestMain(m *testing.M) {
	if handled, code := proc.Main(os.Args[1:]); handled {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string) *proc.Engine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e, err := proc.New(proc.Config{Dir: dir, Self: self, Platform: "suite"})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func prepare(t *testing.T) (*proc.Engine, string, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the suite runs containers under another user: needs root")
	}
	store, err := oci.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	digest := enginetest.Image(t, store)
	img, err := store.Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "mcproc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e := open(t, dir)
	if err := e.LoadImage(t.Context(), digest, img); err != nil {
		t.Fatal(err)
	}
	return e, dir, digest
}

func TestConformance(t *testing.T) {
	e, _, digest := prepare(t)
	enginetest.Run(t, e, digest)
}

// TestReadoption: a second engine on the folder, as after kill -9 of the agent, sees what runs and can stop it.
func TestReadoption(t *testing.T) {
	e, dir, digest := prepare(t)
	id, err := e.Create(t.Context(), engine.Spec{Name: "suite", Digest: digest, Command: []string{"/app", "stubborn"}, UID: 21000, GID: 21000})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	again := open(t, dir)
	c, ok, err := again.Inspect(t.Context(), id)
	if err != nil || !ok || c.State != engine.Running || c.PID == 0 {
		t.Fatalf("the second engine sees %+v, %v, %v, want it running", c, ok, err)
	}
	if err := again.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := again.Inspect(t.Context(), id); ok {
		t.Error("removed, yet still there")
	}
}
