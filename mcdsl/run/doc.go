// Package run takes a service from its first part to its last: it starts the parts in order, tells systemd
// when the service is ready, waits for a signal or a failed part, and stops the parts in reverse within a
// bounded time. It exists so that no service writes its own signal handling.
//
//	err := run.Group(ctx, run.Options{Log: log, Reload: reload, Alive: checks.Alive},
//		run.Component{Name: "database", Start: open, Stop: shut},
//		run.Background("reaper", reap),
//		run.Component{Name: "https", Start: srv.Start, Stop: srv.Stop})
//
// The context given to a part's Start lives until that part's Stop has returned, so its goroutines may use
// it; it ends early only when a signal arrives while parts are still starting. A part that dies on its own
// calls [Fail] with that context, and the whole group stops with that error.
//
// The first SIGTERM or SIGINT stops the group, a second one ends the process at once. SIGHUP calls
// Options.Reload. The package does not restart parts: that is systemd's or the agent's work.
package run
