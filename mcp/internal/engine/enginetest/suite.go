// Package enginetest is the contract of an engine in runnable form: one suite that every engine passes.
package enginetest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"metacircular.net/mcp/internal/engine"
	"metacircular.net/mcp/internal/oci"
)

// Image builds the suite's static program and stores an image of it.
func Image(t *testing.T, store *oci.Store) string {
	t.Helper()
	_, self, _, _ := runtime.Caller(0)
	bin := filepath.Join(t.TempDir(), "app")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "./testdata/app")
	cmd.Dir = filepath.Dir(self)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the suite's program: %v\n%s", err, out)
	}
	digest, err := store.FromBinary(t.Context(), "app:1", oci.Binary{Path: bin, Name: "app", User: "21000:21000"})
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// Run runs the suite. fresh returns an engine with the suite's image; it may be called once a case.
func Run(t *testing.T, e engine.Engine, digest string) {
	labels := func(t *testing.T) map[string]string { return map[string]string{"mcp.test": t.Name()} }
	create := func(t *testing.T, s engine.Spec) string {
		t.Helper()
		s.Digest, s.Name, s.Labels = digest, "suite", labels(t)
		if s.UID == 0 {
			s.UID, s.GID = 21000, 21000
		}
		id, err := e.Create(t.Context(), s)
		if err != nil {
			t.Fatalf("create: %v", err)
		}
		t.Cleanup(func() {
			if err := e.Remove(context.Background(), id); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
		return id
	}
	output := func(t *testing.T, id string) string {
		t.Helper()
		var b strings.Builder
		if err := e.Logs(t.Context(), id, engine.LogOptions{}, func(l engine.LogLine) error { b.WriteString(l.Text + "\n"); return nil }); err != nil {
			t.Fatalf("logs: %v", err)
		}
		return b.String()
	}
	runToEnd := func(t *testing.T, id string) engine.Container {
		t.Helper()
		if err := e.Start(t.Context(), id); err != nil {
			t.Fatalf("start: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		c, err := e.Wait(ctx, id)
		if err != nil {
			t.Fatalf("wait: %v", err)
		}
		return c
	}

	t.Run("image", func(t *testing.T) {
		ok, err := e.HasImage(t.Context(), digest)
		if err != nil || !ok {
			t.Fatalf("HasImage = %v, %v, want true", ok, err)
		}
		ok, err = e.HasImage(t.Context(), "sha256:"+strings.Repeat("0", 64))
		if err != nil || ok {
			t.Fatalf("HasImage(unknown) = %v, %v, want false", ok, err)
		}
	})
	t.Run("exit code and both streams", func(t *testing.T) {
		id := create(t, engine.Spec{Command: []string{"/app", "exit"}})
		c := runToEnd(t, id)
		if c.State != engine.Exited || c.ExitCode != 7 {
			t.Errorf("state %s, exit code %d, want exited, 7", c.State, c.ExitCode)
		}
		if out := output(t, id); !strings.Contains(out, "to stdout") || !strings.Contains(out, "to stderr") {
			t.Errorf("logs = %q, want both streams", out)
		}
	})
	t.Run("long lines are cut, the program goes on", func(t *testing.T) {
		id := create(t, engine.Spec{Command: []string{"/app", "long"}})
		if c := runToEnd(t, id); c.ExitCode != 0 {
			t.Errorf("exit code %d, want 0", c.ExitCode)
		}
		if !strings.Contains(output(t, id), "after") {
			t.Error("the line after a long one is missing")
		}
	})
	t.Run("cage", func(t *testing.T) {
		id := create(t, engine.Spec{Command: []string{"/app", "probe"}, Env: []string{"GREETING=hi"}, Hosts: map[string]string{"mcias.mc.test": "127.0.0.9"}})
		if c := runToEnd(t, id); c.ExitCode != 0 {
			t.Errorf("exit code %d, want 0", c.ExitCode)
		}
		out := output(t, id)
		for _, want := range []string{"uid 21000 gid 21000 pid 1", "CapEff: 0000000000000000", "CapBnd: 0000000000000000", "CapAmb: 0000000000000000",
			"NoNewPrivs: 1", "Seccomp: 2", "root is read-only", "mount refused", "127.0.0.9", "mcias.mc.test", "env hi"} {
			if !strings.Contains(out, want) {
				t.Errorf("the program saw\n%s\nwant %q in it", out, want)
			}
		}
	})
	t.Run("mounts", func(t *testing.T) {
		data, ro := t.TempDir(), t.TempDir()
		if err := os.Chown(data, 21000, 21000); err != nil {
			t.Skipf("needs root to give a folder away: %v", err)
		}
		for _, d := range []string{filepath.Dir(data), filepath.Dir(filepath.Dir(data))} {
			_ = os.Chmod(d, 0o755)
		}
		id := create(t, engine.Spec{Command: []string{"/app", "write"}, Mounts: []engine.Mount{{Source: data, Target: "/data"}, {Source: ro, Target: "/ro", ReadOnly: true}}})
		if c := runToEnd(t, id); c.ExitCode != 0 {
			t.Errorf("exit code %d, want 0: %s", c.ExitCode, output(t, id))
		}
		if got, err := os.ReadFile(filepath.Join(data, "kept")); err != nil || string(got) != "kept" {
			t.Errorf("the mounted file = %q, %v", got, err)
		}
	})
	t.Run("missing mount source is refused", func(t *testing.T) {
		_, err := e.Create(t.Context(), engine.Spec{Name: "suite", Digest: digest, Command: []string{"/app", "exit"}, UID: 21000, GID: 21000,
			Mounts: []engine.Mount{{Source: filepath.Join(t.TempDir(), "gone"), Target: "/data"}}, Labels: labels(t)})
		if err == nil {
			t.Error("create succeeded, want an error: a missing source must not become an empty folder")
		}
	})
	t.Run("stop asks first", func(t *testing.T) {
		id := create(t, engine.Spec{Command: []string{"/app", "serve", "127.0.0.1:0"}})
		if err := e.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		awaitLine(t, e, id, "serving")
		if err := e.Stop(t.Context(), id, "SIGTERM", 20*time.Second); err != nil {
			t.Fatal(err)
		}
		c, _, err := e.Inspect(t.Context(), id)
		if err != nil || c.State != engine.Exited || c.ExitCode != 0 {
			t.Errorf("after stop: %+v, %v, want exited with 0", c, err)
		}
		if !strings.Contains(output(t, id), "asked to stop") {
			t.Error("the program never saw the signal")
		}
	})
	t.Run("stop kills the stubborn", func(t *testing.T) {
		id := create(t, engine.Spec{Command: []string{"/app", "stubborn"}})
		if err := e.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		awaitLine(t, e, id, "staying")
		if err := e.Stop(t.Context(), id, "SIGTERM", 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if c, _, _ := e.Inspect(t.Context(), id); c.State != engine.Exited || c.ExitCode != 137 {
			t.Errorf("after kill: state %s, code %d, want exited, 137", c.State, c.ExitCode)
		}
	})
	t.Run("list by labels", func(t *testing.T) {
		id := create(t, engine.Spec{Command: []string{"/app", "exit"}})
		got, err := e.List(t.Context(), labels(t))
		if err != nil || len(got) != 1 || got[0].ID != id || got[0].State != engine.Created {
			t.Errorf("list = %+v, %v, want the one created", got, err)
		}
		got, err = e.List(t.Context(), map[string]string{"mcp.test": "another"})
		if err != nil || len(got) != 0 {
			t.Errorf("list of another label = %+v, %v, want none", got, err)
		}
	})
	t.Run("events", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events, err := e.Events(ctx)
		if err != nil {
			t.Fatal(err)
		}
		id := create(t, engine.Spec{Command: []string{"/app", "exit"}})
		runToEnd(t, id)
		var kinds []string
		for ev := range events {
			if ev.ID == id {
				kinds = append(kinds, ev.Kind)
			}
			if ev.ID == id && ev.Kind == "die" {
				break
			}
		}
		if !slices.Contains(kinds, "start") {
			t.Errorf("events = %v, want a start before die", kinds)
		}
	})
	t.Run("unknown container", func(t *testing.T) {
		if _, ok, err := e.Inspect(t.Context(), "nosuchcontainer0"); ok || err != nil {
			t.Errorf("Inspect(unknown) = %v, %v, want false, nil", ok, err)
		}
		if err := e.Remove(t.Context(), "nosuchcontainer0"); err != nil {
			t.Errorf("Remove(unknown) = %v, want nil", err)
		}
	})
}

// awaitLine returns when the program has written a line.
func awaitLine(t *testing.T, e engine.Engine, id, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	found := false
	_ = e.Logs(ctx, id, engine.LogOptions{Follow: true}, func(l engine.LogLine) error {
		if strings.Contains(l.Text, want) {
			found = true
			cancel()
		}
		return nil
	})
	if !found {
		t.Fatalf("the program never wrote %q", want)
	}
}
