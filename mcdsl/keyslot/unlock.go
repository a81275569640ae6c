package keyslot

import (
	"context"
	"errors"
	"time"

	"metacircular.net/mcdsl/fault"
)

// Origin says where an attempt comes from. Local ones have a counter of their own, so that remote attempts cannot
// lock out the operator at the machine.
type Origin string

// The origins.
const (
	Remote Origin = "remote"
	Local  Origin = "local"
)

// queueLen is how many password attempts may wait for the one that is being derived.
const queueLen = 8

// limiter lets one derivation at a time run per lane.
type limiter struct {
	passwords, codes chan struct{} // run: capacity 1
	queue            chan struct{} // running and waiting passwords
	codeQueue        chan struct{}
}

func newLimiter() limiter {
	return limiter{
		passwords: make(chan struct{}, 1), queue: make(chan struct{}, 1+queueLen),
		codes: make(chan struct{}, 1), codeQueue: make(chan struct{}, 64),
	}
}

// enter waits for the lane's turn; the returned function leaves it.
func (l limiter) enter(ctx context.Context, kind Kind) (func(), error) {
	run, queue := l.passwords, l.queue
	if kind != Password {
		run, queue = l.codes, l.codeQueue
	}
	select {
	case queue <- struct{}{}:
	default:
		return nil, fault.New(fault.Exhausted, "too many unseal attempts at once").
			WithReason("QUEUE_FULL").WithRetry(time.Second).WithNext("try again, or use the local socket")
	}
	select {
	case run <- struct{}{}:
		return func() { <-run; <-queue }, nil
	case <-ctx.Done():
		<-queue
		return nil, ctx.Err()
	}
}

// Unlock opens a slot and returns the master key and the slot's id. The attempt is stored before anything is derived.
// A wrong secret is an Unauthenticated fault with reason WRONG_SECRET; during back-off it is Exhausted with BACKOFF.
// A typing error in a recovery code is Invalid and does not count.
func (s *Slots) Unlock(ctx context.Context, sec Secret, from Origin) (*Master, string, error) {
	canon, err := canonicalSecret(sec)
	if err != nil {
		return nil, "", err
	}
	defer clear(canon)
	leave, err := s.lanes.enter(ctx, sec.Kind)
	if err != nil {
		return nil, "", err
	}
	defer leave()
	lane := string(sec.Kind) + "/" + string(from)
	if err := s.count(ctx, lane, sec.Kind); err != nil {
		return nil, "", err
	}
	rows, err := s.cfg.Store.Slots(ctx)
	if err != nil {
		return nil, "", err
	}
	tried := 0
	for _, r := range rows {
		if r.Kind != sec.Kind || tried == maxSlots {
			continue
		}
		tried++
		mek, err := openRow(r, canon, s.floor)
		if errors.Is(err, errWrong) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if err := s.opened(ctx, lane, r); err != nil {
			clear(mek)
			return nil, "", err
		}
		return &Master{key: mek}, r.ID, nil
	}
	return nil, "", s.wrong(sec.Kind, tried)
}

// count stores the attempt, or refuses it while the lane backs off. Recovery codes and credentials are counted but not
// slowed: 150 bits cannot be guessed, and a flood of wrong ones must not starve the right one.
func (s *Slots) count(ctx context.Context, lane string, kind Kind) error {
	now := s.cfg.Clock.Now()
	return s.cfg.Store.UpdateAttempts(ctx, lane, func(a Attempts) (Attempts, error) {
		// A clock that went back must not lock the operator out for longer than the longest back-off.
		if wait := min(a.NextAt.Sub(now), s.cfg.BackoffMax); kind == Password && wait > 0 {
			wait = wait.Truncate(time.Second) + time.Second
			return a, fault.New(fault.Exhausted, "too many wrong passwords, the next attempt is possible in %s", wait).
				WithReason("BACKOFF").WithRetry(wait).WithNext("wait, or %s unseal --recovery", s.cfg.Service)
		}
		if a.Count < 1<<30 {
			a.Count++
		}
		a.NextAt = now.Add(s.backoff(a.Count)).UTC()
		return a, nil
	})
}

// backoff doubles from 1 s.
func (s *Slots) backoff(count uint32) time.Duration {
	if count > 20 {
		return s.cfg.BackoffMax
	}
	return min(time.Second<<(count-1), s.cfg.BackoffMax)
}

// opened clears the lane's counter.
func (s *Slots) opened(ctx context.Context, lane string, _ Row) error {
	return s.cfg.Store.UpdateAttempts(ctx, lane, func(Attempts) (Attempts, error) { return Attempts{}, nil })
}

// wrong is the fault of a secret that opens no slot.
func (s *Slots) wrong(kind Kind, tried int) error {
	if tried == 0 {
		return fault.New(fault.Unauthenticated, "there is no %s slot", kind).WithReason("NO_SLOT").
			WithNext("%s slot list", s.cfg.Service)
	}
	f := fault.New(fault.Unauthenticated, "the %s opens no slot", noun(kind)).WithReason("WRONG_SECRET")
	switch kind {
	case Password:
		return f.WithNext("try again in a moment, or %s unseal --recovery", s.cfg.Service)
	case Recovery:
		return f.WithNext("check that the sheet belongs to this instance: %s status", s.cfg.Service)
	default:
		return f.WithNext("%s unseal", s.cfg.Service)
	}
}

// noun is the kind as people say it.
func noun(k Kind) string {
	switch k {
	case Recovery:
		return "recovery code"
	case Credential:
		return "credential file"
	default:
		return "password"
	}
}
