// Package hashpool runs Argon2id for everybody in a bounded amount of memory.
//
// Argon2 allocates its whole memory anew for each hash, so a flood of sign-ins would otherwise decide how much memory
// MCIAS uses. The pool admits min(cores, budget ÷ memory) hashes at once, queues at most Queue more in order, and
// answers the rest "busy" after Wait. A [Permit] belongs to the hashing goroutine: a caller that goes away does not
// free memory that is still in use.
//
// Callers whose network has succeeded for that account before ([Class.Known]) go to the head of the queue, and one
// network prefix may fill half of the queue at most, so a flood does not lock the operator out.
//
// A [Pool] is safe for concurrent use.
package hashpool
