// Package route holds the nouns of the routing table and the one way to look a name up in it.
//
// A Route is a Spec (what its owner stated) with an id, a revision and the marks of running operations.
// Routes are never changed in place: whoever changes one clones it, and an Index over a set of routes is
// built anew for each generation. So readers need no lock, and a reader that holds an old Index sees a
// table that was true at one moment, whole.
//
// The package does no I/O and knows nothing of sockets, health or time.
package route
