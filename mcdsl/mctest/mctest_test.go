package mctest_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"metacircular.net/mcdsl/mctest"
)

func TestCrash(t *testing.T) {
	mctest.Crash(t, mctest.CrashTest{Kills: 3,
		Child: func(dir string, acked func(string)) error {
			for i := 0; ; i++ {
				f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					return err
				}
				what := fmt.Sprintf("%d-%d", os.Getpid(), i)
				if _, err := fmt.Fprintln(f, what); err != nil {
					return err
				}
				if err := f.Sync(); err != nil {
					return err
				}
				if err := f.Close(); err != nil {
					return err
				}
				acked(what)
			}
		},
		Check: func(t *testing.T, dir string, acked []string) {
			data, err := os.ReadFile(filepath.Join(dir, "log"))
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range acked {
				if !strings.Contains(string(data), a+"\n") {
					t.Errorf("%s was acknowledged and is gone", a)
				}
			}
		},
	})
}

func TestCanary(t *testing.T) {
	t.Parallel()
	c := mctest.NewCanary()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "leak"), []byte("x"+c.Secret+"y"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.InFiles(t, dir, "leak")
	c.InData(t, "a harmless text", []byte("nothing here"))
	found := &counter{TB: t}
	c.InFiles(found, dir)
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Env = []string{"SECRET=" + c.Secret}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	c.InProcess(found, cmd.Process.Pid)
	if found.errors != 2 {
		t.Errorf("found the secret %d times, want in the file and in the environment", found.errors)
	}
}

// counter counts what a helper would have failed with.
type counter struct {
	testing.TB
	errors int
}

func (c *counter) Errorf(string, ...any) { c.errors++ }

func ExampleHuman() {
	idp := mctest.Offline()
	token := idp.Token(mctest.Human("alice", "user").For("mcns"))
	fmt.Println(strings.Count(token, "."))
	// Output: 2
}
