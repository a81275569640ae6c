// Package policy decides who may do what at MCIAS: who may sign in to which service, from where, when and with
// which factors, and who may use MCIAS's own methods.
//
// A [Rule] allows or denies; empty fields match anything. [Compile] turns a revision into an immutable [Set].
// [Set.Decide] answers a [Request]: any matching deny wins, else any matching allow admits with the strictest union
// of the obligations of all matching allows, else deny. There is no priority: where deny always wins it could not
// change a result. An added allow never loosens an obligation.
//
// [Set.Explain] says why: for each rule the first field that did not match. It runs the same matcher as Decide.
//
// A Set is immutable and safe for concurrent use. The package holds no state and does no I/O.
package policy
