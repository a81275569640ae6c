package mctest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const crashEnv = "MC_CRASH_DIR"

// CrashTest says what to kill and what must be left. Both functions run on the same folder: Child in a process
// of its own that is killed with SIGKILL, Check in the test afterwards.
type CrashTest struct {
	Kills int // how often; each after a different number of acknowledgements
	// Child works until it is killed. It calls acked after each write that it was told is durable, and never
	// returns before it is killed unless it failed.
	Child func(dir string, acked func(what string)) error
	// Check opens what was left and reports what is missing of everything acknowledged so far.
	Check func(t *testing.T, dir string, acked []string)
}

// Crash runs a crash loop. It re-executes the test binary for the same test, so it must be called from a test
// that nothing else runs in:
//
//	func TestCrash(t *testing.T) { mctest.Crash(t, mctest.CrashTest{Kills: 20, Child: …, Check: …}) }
func Crash(t *testing.T, c CrashTest) {
	t.Helper()
	if dir := os.Getenv(crashEnv); dir != "" {
		err := c.Child(dir, func(what string) {
			if strings.ContainsAny(what, "\n") {
				panic("an acknowledgement is one line")
			}
			fmt.Fprintf(os.Stdout, "acked %s\n", what)
		})
		t.Fatalf("the child ended by itself: %v", err)
	}
	dir := t.TempDir()
	var acked []string
	for i := range c.Kills {
		got := crashOnce(t, dir, 1+i*7%23)
		acked = append(acked, got...)
		c.Check(t, dir, acked)
		if t.Failed() {
			t.Fatalf("after kill %d", i+1)
		}
	}
}

// crashOnce lets the child acknowledge a number of writes, kills it, and returns all it acknowledged.
func crashOnce(t *testing.T, dir string, writes int) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var acked []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		what, ok := strings.CutPrefix(lines.Text(), "acked ")
		if !ok {
			fmt.Fprintln(&said, lines.Text())
			continue
		}
		if acked = append(acked, what); len(acked) == writes {
			_ = cmd.Process.Kill() // the rest of the pipe is still read: it was acknowledged, too
		}
	}
	_ = cmd.Wait() // it was killed
	if len(acked) < writes {
		t.Fatalf("the child ended after %d of %d writes:\n%s", len(acked), writes, said.String())
	}
	return acked
}
