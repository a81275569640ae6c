package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"metacircular.net/mcdsl/fault"
)

// takeLock keeps a second `up`, `down` or `destroy` of the same root out. The kernel frees it when the process ends,
// however it ends, so there is never a stale lock to remove by hand.
func (l Layout) takeLock() (release func(), err error) {
	f, err := os.OpenFile(l.Path("mcp-up.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the platform's lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fault.New(fault.Conflict, "another mcp up, down or destroy is working on %s", l.Root).
				WithReason("LOCKED").WithNext("wait for it to end, then run the command again")
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
