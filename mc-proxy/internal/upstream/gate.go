package upstream

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"metacircular.net/mcdsl/fault"
)

// MaxWaiters bounds the work that waits at all gates of the process together.
const MaxWaiters = 4096

// Errors of a gate. Waiting that ended otherwise returns the context's error.
var (
	ErrHoldFull    = fault.New(fault.Unavailable, "the route is held and its queue is full").WithReason("HELD")
	ErrHoldTimeout = fault.New(fault.Unavailable, "the route is held longer than this request may wait").WithReason("HELD")
)

// Gate is where work enters a route. While held, new work waits in order of arrival.
type Gate struct {
	waiting *atomic.Int64 // of the process

	mu        sync.Mutex
	held      bool
	maxWait   time.Duration
	maxQueued int
	inFlight  int
	queue     list.List     // of chan struct{}
	changed   chan struct{} // closed and renewed at every change of a count, while someone looks
	timeouts  int64
}

// Enter lets one piece of work in, waiting while the gate is held. Every nil must be paired with Leave.
func (g *Gate) Enter(ctx context.Context) error {
	g.mu.Lock()
	if !g.held {
		g.inFlight++
		g.mu.Unlock()
		return nil
	}
	if g.queue.Len() >= g.maxQueued || g.waiting.Load() >= MaxWaiters {
		g.timeouts++
		g.mu.Unlock()
		return ErrHoldFull
	}
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	admitted := make(chan struct{})
	place := g.queue.PushBack(admitted)
	wait := g.maxWait
	g.tell()
	g.mu.Unlock()

	timer := time.NewTimer(wait)
	defer timer.Stop()
	var err error
	select {
	case <-admitted:
		return nil
	case <-timer.C:
		err = ErrHoldTimeout
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-admitted: // released in the same moment: it is in
		return nil
	default:
	}
	g.queue.Remove(place)
	g.timeouts++
	g.tell()
	return err
}

// Leave ends work that Enter let in.
func (g *Gate) Leave() {
	g.mu.Lock()
	g.inFlight--
	g.tell()
	g.mu.Unlock()
}

// tell wakes those who watch the counts. g.mu is held.
func (g *Gate) tell() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// Hold closes the gate; a gate already held takes the new limits.
func (g *Gate) Hold(maxWait time.Duration, maxQueued int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.maxWait, g.maxQueued = true, maxWait, maxQueued
}

// Release opens the gate and lets the waiters in, oldest first.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.held {
		return
	}
	g.held = false
	for e := g.queue.Front(); e != nil; e = g.queue.Front() {
		g.queue.Remove(e)
		g.inFlight++
		close(e.Value.(chan struct{}))
	}
	g.tell()
}

// Counts returns the work inside, the work that waits, and a channel that is closed at the next change.
func (g *Gate) Counts() (inFlight, queued int, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil {
		g.changed = make(chan struct{})
	}
	return g.inFlight, g.queue.Len(), g.changed
}

// Held reports whether new work waits.
func (g *Gate) Held() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// Lapses returns how many waiters left without having been let in.
func (g *Gate) Lapses() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.timeouts
}
