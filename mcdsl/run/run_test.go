package run_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"metacircular.net/mcdsl/run"
)

// journal collects what happened, in order. Safe for concurrent use.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) { j.mu.Lock(); defer j.mu.Unlock(); j.lines = append(j.lines, s) }
func (j *journal) got() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

func (j *journal) part(name string) run.Component {
	return run.Component{Name: name,
		Start: func(context.Context) error { j.add("start " + name); return nil },
		Stop:  func(context.Context) error { j.add("stop " + name); return nil }}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestOrderAndNotify(t *testing.T) {
	t.Parallel()
	var j journal
	sig := make(chan os.Signal, 1)
	opt := run.Options{Log: quiet(), Signals: sig,
		Notify:   func(s string) { j.add(s) },
		Stopping: func() { j.add("not ready") },
		Ready:    func() { sig <- syscall.SIGTERM }}
	if err := run.Group(t.Context(), opt, j.part("a"), j.part("b"), j.part("c")); err != nil {
		t.Fatalf("Group = %v, want nil", err)
	}
	want := []string{"start a", "start b", "start c", "READY=1", "STOPPING=1", "not ready", "stop c", "stop b", "stop a"}
	if !slices.Equal(j.got(), want) {
		t.Errorf("order = %q, want %q", j.got(), want)
	}
}

func TestFailedStartStopsWhatRan(t *testing.T) {
	t.Parallel()
	var j journal
	boom := errors.New("port taken")
	bad := run.Component{Name: "b", Start: func(context.Context) error { return boom }}
	err := run.Group(t.Context(), run.Options{Log: quiet(), Notify: func(string) {}}, j.part("a"), bad, j.part("c"))
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "start b: ") {
		t.Errorf("Group = %v, want start b: port taken", err)
	}
	if want := []string{"start a", "stop a"}; !slices.Equal(j.got(), want) {
		t.Errorf("order = %q, want %q", j.got(), want)
	}
}

func TestPartThatDiesStopsTheGroup(t *testing.T) {
	t.Parallel()
	boom := errors.New("listener closed")
	err := run.Group(t.Context(), run.Options{Log: quiet(), Notify: func(string) {}},
		run.Background("web", func(context.Context) error { return boom }))
	if !errors.Is(err, boom) {
		t.Errorf("Group = %v, want %v", err, boom)
	}
}

func TestDegradedIsReady(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var j journal
	err := run.Group(ctx, run.Options{Log: quiet(), Ready: cancel, Notify: func(s string) { j.add(s) },
		Probe: func(context.Context) error { return errors.New("disk is full") }})
	if err != nil {
		t.Fatalf("Group = %v", err)
	}
	if got := j.got()[0]; got != "READY=1\nSTATUS=degraded: disk is full" {
		t.Errorf("first notification = %q", got)
	}
}

func TestGraceBoundsStopping(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		stuck := run.Component{Name: "stuck", Stop: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		err := run.Group(ctx, run.Options{Log: quiet(), Ready: cancel, Notify: func(string) {}, Signals: make(chan os.Signal)}, stuck)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Group = %v, want a deadline", err)
		}
		if took := time.Since(begin); took != run.DefaultGrace {
			t.Errorf("stopping took %v, want %v", took, run.DefaultGrace)
		}
	})
}

func TestSecondSignalLeavesAtOnce(t *testing.T) {
	t.Parallel()
	sig := make(chan os.Signal, 2)
	left := make(chan int, 1)
	release := make(chan struct{})
	opt := run.Options{Log: quiet(), Signals: sig, Notify: func(string) {},
		Ready: func() { sig <- syscall.SIGTERM; sig <- syscall.SIGTERM },
		Exit:  func(code int) { left <- code; close(release) }}
	slow := run.Component{Name: "slow", Stop: func(context.Context) error { <-release; return nil }}
	if err := run.Group(t.Context(), opt, slow); err != nil {
		t.Fatal(err)
	}
	if code := <-left; code != 130 {
		t.Errorf("exit code = %d, want 130", code)
	}
}

func TestHangupReloadsAndABadReloadChangesNothing(t *testing.T) {
	t.Parallel()
	sig := make(chan os.Signal, 3)
	n := 0
	opt := run.Options{Log: quiet(), Signals: sig, Notify: func(string) {},
		Ready: func() { sig <- syscall.SIGHUP; sig <- syscall.SIGHUP },
		Reload: func(context.Context) error {
			if n++; n == 2 {
				sig <- syscall.SIGTERM
			}
			return errors.New("bad file")
		}}
	if err := run.Group(t.Context(), opt); err != nil {
		t.Fatalf("Group = %v", err)
	}
	if n != 2 {
		t.Errorf("reloads = %d, want 2", n)
	}
}
