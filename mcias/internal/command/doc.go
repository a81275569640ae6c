// Package command is MCIAS's command line besides the verbs every service has: one noun per file. Commands reach the
// server as the logged-in user or, with --addr local, over its Unix socket.
package command
