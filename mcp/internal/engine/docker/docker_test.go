package docker_test

import (
	"os"
	"testing"

	"metacircular.net/mcp/internal/engine/docker"
	"metacircular.net/mcp/internal/engine/enginetest"
	"metacircular.net/mcp/internal/oci"
)

// socket finds an engine to test with, or says why there is none.
func socket(t *testing.T) string {
	t.Helper()
	s := os.Getenv("MCP_TEST_DOCKER_SOCKET")
	if s == "" {
		s = "/var/run/docker.sock"
	}
	if _, err := os.Stat(s); err != nil {
		t.Skipf("no container engine: %v; set MCP_TEST_DOCKER_SOCKET", err)
	}
	return s
}

func prepare(t *testing.T) (*docker.Engine, string) {
	t.Helper()
	e, err := docker.New(docker.Config{Socket: socket(t), Platform: "suite"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	if _, err := e.Info(t.Context()); err != nil {
		t.Skipf("the container engine does not answer: %v", err)
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
	if err := e.LoadImage(t.Context(), digest, img); err != nil {
		t.Fatal(err)
	}
	return e, digest
}

func TestConformance(t *testing.T) {
	e, digest := prepare(t)
	enginetest.Run(t, e, digest)
}

// TestPublishedPort: the service of a network of its own answers at the address and port given, and is found by name.
func TestPublishedPort(t *testing.T) {
	e, digest := prepare(t)
	publish(t, e, digest)
}

// TestEngineAway: an engine that does not answer is unavailable, and never reported as having nothing.
func TestEngineAway(t *testing.T) {
	e, err := docker.New(docker.Config{Socket: t.TempDir() + "/none.sock", Platform: "suite"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	checkAway(t, e)
}

func TestPlatformIsNeeded(t *testing.T) {
	for _, platform := range []string{"", "a b", "-a"} {
		if _, err := docker.New(docker.Config{Socket: "/none.sock", Platform: platform}); err == nil {
			t.Errorf("New with platform %q succeeded, want an error: its images would have no name", platform)
		}
	}
}
