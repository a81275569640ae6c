package docker_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/engine/docker"
)

func publish(t *testing.T, e *docker.Engine, digest string) {
	t.Helper()
	const name, hostPort = "suite-net", 28994
	gateway, err := e.EnsureNetwork(t.Context(), name, map[string]string{"mcp.test": t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.RemoveNetwork(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	if again, err := e.EnsureNetwork(t.Context(), name, nil); err != nil || again != gateway {
		t.Errorf("the network a second time: gateway %s, %v, want %s", again, err, gateway)
	}
	id, err := e.Create(t.Context(), engine.Spec{Name: "suite", Digest: digest, Command: []string{"/app", "serve", ":8080"}, UID: 21000, GID: 21000,
		Network: name, Aliases: []string{"web"}, Ports: []engine.Port{{Container: 8080, Host: hostPort, Addr: netip.MustParseAddr("127.0.0.1")}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Remove(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	if err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := get(t, fmt.Sprintf("http://127.0.0.1:%d/", hostPort)); got != "hello" {
		t.Errorf("the published port answers %q, want hello", got)
	}
}

// get asks until there is an answer: the program needs a moment to listen.
func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(body)
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s never answered: %v", url, err)
		case <-tick.C:
		}
	}
}

func checkAway(t *testing.T, e *docker.Engine) {
	t.Helper()
	if _, err := e.List(t.Context(), nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("List of an absent engine = %v, want Unavailable", err)
	}
	if _, ok, err := e.Inspect(t.Context(), "nosuchcontainer0"); ok || !fault.Is(err, fault.Unavailable) {
		t.Errorf("Inspect at an absent engine = %v, %v, want Unavailable", ok, err)
	}
}
