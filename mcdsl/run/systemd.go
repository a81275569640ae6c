package run

import (
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifySystemd tells the service manager; without one (no NOTIFY_SOCKET) it does nothing.
func notifySystemd(state string) {
	// A manager that went away must not stop the service: there is nobody left to tell.
	_, _ = daemon.SdNotify(false, state)
}

// watchdog pings the service manager at a third of its interval as long as Alive says so.
// Missing pings make systemd restart the service, so Alive must not depend on peers, seal state or disk.
func (g *group) watchdog() (stop func()) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every / 3)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				if g.Alive != nil {
					if err := g.Alive(); err != nil {
						g.Log.Error("watchdog: not alive", "err", err)
						continue
					}
				}
				g.Notify("WATCHDOG=1")
			}
		}
	}()
	return func() { close(quit); <-done }
}

// oneLine keeps a text within one line of the notify protocol.
func oneLine(s string) string { return strings.NewReplacer("\n", "; ", "\r", " ").Replace(s) }
