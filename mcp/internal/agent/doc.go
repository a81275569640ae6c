// Package agent is the node's own process: it serves the contract for its node on a Unix socket and carries operations
// out through the deploy package.
//
// It holds the full truth of the node and needs nobody: master, MCIAS, Metacrypt, MCR and MCNS may all be away while it
// starts what its database says. Whoever may write to its engine is root on the node, so its socket is open to root and
// to the platform's owner only, and each use is audited.
package agent
