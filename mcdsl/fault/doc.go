// Package fault gives an error the four things a caller needs: its kind, what it happened to, why as
// far as we may say, and what to do next. It exists so that REST, gRPC, pages and command lines tell
// the same story: one table maps a [Kind] to a gRPC code, an HTTP status and an exit code.
//
//	return fault.New(fault.Conflict, "zone %s is at serial %d", name, have).
//		WithReason("STALE_SERIAL").
//		WithNext("mcns zone show %s", name)
//
// Below the edge, code returns errors wrapped with %w; [From] finds the fault in the chain. At the
// edge [Status] makes the gRPC status. A client turns it back with [From], so that its kind, reason,
// fields and next step survive the network. The cause of an Internal fault, and whatever was wrapped
// with [Error.Wrap], goes to the log and never to a caller.
//
// Faults are immutable once returned; the With methods are meant for the expression that makes one.
package fault
