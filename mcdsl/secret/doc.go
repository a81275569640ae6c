// Package secret holds values that cannot be printed and reads files that must be private.
//
// A [Value] masks itself in every textual form (fmt, slog, JSON, text); only [Value.Reveal] gives the
// bytes. Secrets come from files: mode 0600 or 0400, owned by this process's user or root, or from a
// systemd credential by name ("credential:NAME"). Configuration never holds a secret, only the name of
// its file.
//
// It does not encrypt anything, and it cannot keep a secret from root or from a debugger.
package secret
