// Package policy decides who may pull, push, tag, delete and administer. It exists so that there is one
// decision for every way in, and so that each decision can be explained.
//
// A Rule allows or denies; it matches if all its populated fields match. Any matching deny wins, else any
// matching allow, else the answer is no. There are no priorities: with deny-wins they could not change a
// result. A Set is a compiled list of rules, built-in ones first; it never changes, so it is safe for
// concurrent use, and the owner swaps the whole Set.
//
//	set, err := policy.Compile(rules)
//	d := set.Decide(policy.Request{Subject: who, Action: policy.Pull, Repository: "team/blog"}, now)
//
// It knows nothing of tokens and scopes: those bound a request further, elsewhere.
package policy
