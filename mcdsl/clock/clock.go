// Package clock passes the wall time in, so that code that decides by the date can be tested.
//
// Timers and tickers need no clock of ours: testing/synctest fakes those. Binaries built with the tag
// "mctest" accept an offset in MC_CLOCK_OFFSET, because tools that fake the time by preloading cannot
// reach a static Go binary.
package clock

import (
	"sync"
	"time"
)

// Clock tells the time. Implementations are safe for concurrent use.
type Clock interface {
	Now() time.Time
}

// System returns the machine's clock.
func System() Clock { return system{offset: offset()} }

type system struct{ offset time.Duration }

func (s system) Now() time.Time { return time.Now().Add(s.offset) }

// Or returns c, or the machine's clock if c is nil: for Config structs where a clock is optional.
func Or(c Clock) Clock {
	if c == nil {
		return System()
	}
	return c
}

// Fake is a clock that moves only when told. The zero value stands at the zero time.
type Fake struct {
	mu  sync.Mutex // guards now
	now time.Time
}

// NewFake returns a clock that stands at t.
func NewFake(t time.Time) *Fake { return &Fake{now: t} }

// Now returns the time the clock was set to.
func (f *Fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Advance moves the clock on by d and returns the new time.
func (f *Fake) Advance(d time.Duration) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	return f.now
}

// Set moves the clock to t.
func (f *Fake) Set(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = t
}
