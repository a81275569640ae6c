package db

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"metacircular.net/mcdsl/fault"
)

// Lock is a held lock on a data folder. It is a flock on the folder itself, so it leaves no file behind,
// ends with the process and can be handed to another process as a descriptor.
type Lock struct{ f *os.File }

// LockFolder takes the lock of a data folder without waiting; if another process holds it the fault is
// a Conflict that names the process.
func LockFolder(dir string) (*Lock, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor fits
		holder := lockHolder(f)
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.New(fault.Conflict, "another process%s works in %s", holder, dir).WithReason("LOCKED").
				WithNext("stop it, or use another folder")
		}
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	return &Lock{f}, nil
}

// LockFromFile adopts a lock that came from another process as an open descriptor of the folder.
func LockFromFile(f *os.File) *Lock { return &Lock{f} }

// File returns the descriptor that holds the lock, for handing it over.
func (l *Lock) File() *os.File { return l.f }

// Unlock gives the lock back. Idempotent.
func (l *Lock) Unlock() error {
	if l == nil || l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// lockHolder looks the holder up in /proc/locks; "" where that is not possible.
func lockHolder(f *os.File) string {
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return ""
	}
	defer func() { _ = locks.Close() }()
	inode := ":" + strconv.FormatUint(sys.Ino, 10)
	for sc := bufio.NewScanner(locks); sc.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 fe:01:131 0 EOF
		p := strings.Fields(sc.Text())
		if len(p) > 5 && p[1] == "FLOCK" && strings.HasSuffix(p[5], inode) && p[4] != "-1" && p[4] != "0" {
			return " (pid " + p[4] + ")"
		}
	}
	return ""
}
