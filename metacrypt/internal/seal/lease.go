package seal

import (
	"context"
	"sync"

	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/engine"
)

// Lease is the right to use the open barrier. While it is out, sealing waits; Ctx ends when sealing begins.
type Lease struct {
	Ctx     context.Context //nolint:containedctx // it belongs to the lease
	Barrier *barrier.Barrier
	Engines *engine.Set
	release func()
}

// Release gives the lease back. It may be called more than once.
func (l *Lease) Release() { l.release() }

// Acquire takes a lease, or refuses with what to do.
func (s *Seal) Acquire(ctx context.Context) (*Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Unsealed {
		return nil, errSealed(s.state)
	}
	ses := s.open
	ses.leases++
	lctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ses.ctx, cancel)
	return &Lease{Ctx: lctx, Barrier: ses.barrier, Engines: ses.engines, release: sync.OnceFunc(func() {
		stop()
		cancel()
		s.back(ses)
	})}, nil
}

// back counts a lease down; the last one lets sealing go on.
func (s *Seal) back(ses *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ses.leases--
	if ses.leases == 0 && s.state == Sealing && s.open == ses {
		close(ses.drained)
	}
}

// With runs f under a lease.
func (s *Seal) With(ctx context.Context, f func(l *Lease) error) error {
	l, err := s.Acquire(ctx)
	if err != nil {
		return err
	}
	defer l.Release()
	return f(l)
}
