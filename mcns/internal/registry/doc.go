// Package registry turns the instances that agents run into names.
//
// An owner (the caller's account) states its full set; what it no longer names goes. A set is kept as it
// was stated, with its lease, and published as far as policy and other people's records allow: what is in
// the way comes back as conflicts, and heals with the next Sync. A lease that lapsed, and as much again,
// removes the names, or with KEEP only marks them stale: a dead agent must not take running apps off the
// net. Leases do not run while MCNS is down: at start each gets a full term.
package registry
