package policy

import (
	"sync/atomic"
	"time"
)

// Book holds the rules in force and swaps them as a whole. Safe for concurrent use; its zero value knows only
// the built-in rules.
type Book struct {
	set       atomic.Pointer[Set]
	immutable atomic.Pointer[[]Immutable]
}

// Load puts new rules in force; an error leaves the old ones.
func (b *Book) Load(access []Rule, immutable []Immutable) error {
	set, err := Compile(access)
	if err != nil {
		return err
	}
	b.set.Store(set)
	b.immutable.Store(&immutable)
	return nil
}

// Set returns the rules in force.
func (b *Book) Set() *Set {
	if s := b.set.Load(); s != nil {
		return s
	}
	return &Set{rules: Builtin()}
}

// Decide answers a request by the rules in force.
func (b *Book) Decide(q Request, now time.Time) Decision { return b.Set().Decide(q, now) }

// Immutable returns the immutable rules in force.
func (b *Book) Immutable() []Immutable {
	if p := b.immutable.Load(); p != nil {
		return *p
	}
	return nil
}

// Holder returns the immutable rule that holds a tag, or "".
func (b *Book) Holder(repo, tag string) string { return Holder(b.Immutable(), repo, tag) }
