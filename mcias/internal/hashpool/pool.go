package hashpool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBusy is returned when the queue is full or the wait is over.
var ErrBusy = errors.New("too many sign-ins at once")

// Config sets a pool up.
type Config struct {
	Params Params
	Budget uint64        // bytes for all hashes together; at least one hash
	Queue  int           // waiting callers; default 64
	Wait   time.Duration // longest wait; default 2s
	Cores  int           // default GOMAXPROCS
}

// Class says who is waiting.
type Class struct {
	Prefix string // network prefix; one prefix fills half of the queue at most
	Known  bool   // this network succeeded for this account before
}

// Pool is the bounded pool.
type Pool struct {
	cfg     Config
	dummy   phc
	permits int

	mu     sync.Mutex // guards free, queue, perPrefix and idle
	free   int
	known  []*waiter
	queue  []*waiter
	prefix map[string]int
	idle   *time.Timer

	refused atomic.Int64
}

type waiter struct {
	ready  chan struct{}
	prefix string
}

// New returns a pool. It hashes once, so that unknown names cost what known ones do.
func New(cfg Config) (*Pool, error) {
	if err := cfg.Params.Check(); err != nil {
		return nil, err
	}
	one := uint64(cfg.Params.MemoryKiB) << 10
	if cfg.Budget < one {
		return nil, fmt.Errorf("argon2: budget of %d bytes is below one hash of %d", cfg.Budget, one)
	}
	if cfg.Queue <= 0 {
		cfg.Queue = 64
	}
	if cfg.Wait <= 0 {
		cfg.Wait = 2 * time.Second
	}
	if cfg.Cores <= 0 {
		cfg.Cores = runtime.GOMAXPROCS(0)
	}
	p := &Pool{cfg: cfg, permits: max(1, min(cfg.Cores, int(cfg.Budget/one))), prefix: map[string]int{}}
	p.free = p.permits
	// The dummy never matches: its key is random, not derived from any password.
	p.dummy = phc{Params: cfg.Params, salt: make([]byte, saltLen), key: make([]byte, keyLen)}
	return p, nil
}

// Permit is the right to hash. It belongs to one goroutine, which releases it when its hashing is done, whatever became
// of the request it hashes for.
type Permit struct {
	pool *Pool
	done bool
}

// Admit waits for a permit.
func (p *Pool) Admit(ctx context.Context, class Class) (*Permit, error) {
	if err := p.acquire(ctx, class); err != nil {
		return nil, err
	}
	return &Permit{pool: p}, nil
}

// Release gives the permit back. More than once is fine.
func (m *Permit) Release() {
	if !m.done {
		m.done = true
		m.pool.release()
	}
}

// Hash returns the PHC string of a new password.
func (m *Permit) Hash(password []byte) string { return newPHC(m.pool.cfg.Params, password).String() }

// Verify compares a password with a PHC string. An empty or damaged string costs the same as a real one and never
// matches. rehash reports that the stored parameters are not the current ones.
func (m *Permit) Verify(stored string, password []byte) (ok, rehash bool) {
	h, err := parsePHC(stored)
	if err != nil {
		h = m.pool.dummy
	}
	ok = h.matches(password)
	return ok && err == nil, h.Params != m.pool.cfg.Params
}

// Hash admits, hashes and releases.
func (p *Pool) Hash(ctx context.Context, class Class, password []byte) (string, error) {
	m, err := p.Admit(ctx, class)
	if err != nil {
		return "", err
	}
	defer m.Release()
	return m.Hash(password), nil
}

// Exclusive waits for the whole pool, runs fn, and gives it back: for key derivations that need all the memory.
func (p *Pool) Exclusive(ctx context.Context, fn func()) error {
	got := 0
	defer func() {
		for range got {
			p.release()
		}
	}()
	for range p.permits {
		if err := p.acquire(ctx, Class{Known: true}); err != nil {
			return err
		}
		got++
	}
	fn()
	return nil
}

// Stats is what the metrics show.
type Stats struct {
	Inflight, Queued int
	Refused          int64
}

// Stats returns the pool's state.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{Inflight: p.permits - p.free, Queued: len(p.known) + len(p.queue), Refused: p.refused.Load()}
}

func (p *Pool) acquire(ctx context.Context, class Class) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.idle != nil {
		p.idle.Stop()
	}
	if p.free > 0 && p.mayTake(class) {
		p.free--
		p.mu.Unlock()
		return nil
	}
	if len(p.known)+len(p.queue) >= p.cfg.Queue || !class.Known && p.prefix[class.Prefix] >= p.cfg.Queue/2 {
		p.mu.Unlock()
		p.refused.Add(1)
		return ErrBusy
	}
	w := &waiter{ready: make(chan struct{}), prefix: class.Prefix}
	if class.Known {
		p.known = append(p.known, w)
	} else {
		p.queue = append(p.queue, w)
		p.prefix[w.prefix]++
	}
	p.mu.Unlock()

	t := time.NewTimer(p.cfg.Wait)
	defer t.Stop()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return p.abandon(w, ctx.Err())
	case <-t.C:
		p.refused.Add(1)
		return p.abandon(w, ErrBusy)
	}
}

// mayTake keeps one permit for known networks where there is more than one. Called with mu held.
func (p *Pool) mayTake(class Class) bool {
	return class.Known || p.permits == 1 && len(p.known) == 0 || p.free > 1
}

// abandon takes w out of its queue; if it was served in the same moment the permit goes on.
func (p *Pool) abandon(w *waiter, err error) error {
	p.mu.Lock()
	for _, q := range []*[]*waiter{&p.known, &p.queue} {
		for i, x := range *q {
			if x == w {
				*q = append((*q)[:i], (*q)[i+1:]...)
				if q == &p.queue {
					p.leave(w)
				}
				p.mu.Unlock()
				return err
			}
		}
	}
	p.mu.Unlock()
	p.release()
	return err
}

// leave counts w out of its prefix. Called with mu held.
func (p *Pool) leave(w *waiter) {
	if p.prefix[w.prefix]--; p.prefix[w.prefix] <= 0 {
		delete(p.prefix, w.prefix)
	}
}

func (p *Pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	switch {
	case len(p.known) > 0:
		w := p.known[0]
		p.known = p.known[1:]
		p.free--
		close(w.ready)
	case len(p.queue) > 0 && p.mayTake(Class{}):
		w := p.queue[0]
		p.queue = p.queue[1:]
		p.leave(w)
		p.free--
		close(w.ready)
	case p.free == p.permits:
		// Give the memory back once nobody has hashed for a while.
		if p.idle == nil {
			p.idle = time.AfterFunc(5*time.Second, debug.FreeOSMemory)
		} else {
			p.idle.Reset(5 * time.Second)
		}
	}
}
