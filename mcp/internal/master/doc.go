// Package master is the one door of a platform: the command line and the pages come here, and each call goes on to the
// agent of the node it concerns.
//
// The master cannot act for a user by itself. For a call that changes something, or looks inside a service, it exchanges
// the caller's token at MCIAS for one whose audience is mcp/<node>, and the agent judges that. What it may read under its
// own identity is NodeLocal: the inventory, from which lists and the status come, so that they work while MCIAS is away.
//
// It owns two tables, nodes and placements. Everything else it knows is the last inventory of each node, read every ten
// seconds over the connection that the agent dialled.
package master
