package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mcdsl/fault"
)

// process is a process id with the time it started: together they name one process for ever, an id alone does not.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of /proc/PID/stat, clock ticks since boot
}

// startOf reads when a process started; 0 when it is gone.
func startOf(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name in parentheses may hold blanks and parentheses: count fields behind the last one.
	text := string(data)
	i := strings.LastIndexByte(text, ')')
	if i < 0 {
		return 0
	}
	fields := strings.Fields(text[i+1:])
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func processOf(pid int) process { return process{PID: pid, Start: startOf(pid)} }

func alive(p process) bool { return p.PID > 0 && p.Start != 0 && startOf(p.PID) == p.Start }

// open returns a pidfd that certainly is this process's.
func open(p process) (int, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return -1, err
	}
	if !alive(p) {
		unix.Close(fd)
		return -1, unix.ESRCH
	}
	return fd, nil
}

// kill signals the process; one that is gone is no error.
func kill(p process, sig syscall.Signal) error {
	fd, err := open(p)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// waitGone returns when the process has ended. The pidfd lies in the runtime's poller: waiting costs no thread.
func waitGone(ctx context.Context, p process) error {
	fd, err := open(p)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // a descriptor fits
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func signalOf(name string) (syscall.Signal, error) {
	if name == "" {
		return syscall.SIGTERM, nil
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	return 0, fault.New(fault.Invalid, "unknown signal %q", name)
}
