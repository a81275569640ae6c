// Package bootstrap brings a whole platform up from nothing, takes it down, and destroys it.
//
// Its nouns: a Layout is the tree below one root folder; a Plan of ports follows from the HTTPS port alone; a Stage is
// one idempotent step of `mcp up`. Each stage looks at what is there before it acts, so a run that was killed anywhere
// is repaired by running it again, and a run over a healthy platform changes nothing. Nothing remembers progress but
// the things made themselves.
//
// The package drives; containers belong to the agent. Until MCIAS can issue tokens, every call goes to a service's Unix
// socket, where root and the platform's owner are known by their peer credentials.
//
// An Up value serves one run and is not safe for concurrent use; a lock in the root keeps a second run out.
package bootstrap
