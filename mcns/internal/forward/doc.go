// Package forward asks upstream resolvers for what is not ours and remembers their answers.
//
// Equal questions in flight share one upstream query (parallel copies make birthday spoofing easy). Each
// UDP query has a socket, port and id of its own and mixed case in the name; a reply that does not match
// all of it is ignored. Only whole answers to the question asked are cached. Failures are remembered for
// some seconds, and while upstreams fail, answers that have run out are given for up to a day (RFC 8767).
package forward
