// Package keyslottest makes slots for tests: Argon2id at costs that take microseconds, and a store in memory.
package keyslottest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/keyslot/internal/weak"
)

// Config returns cfg with costs that protect nothing. Only for tests.
func Config(tb testing.TB, cfg keyslot.Config) keyslot.Config {
	tb.Helper()
	cfg.Weak = weak.Allow()
	if cfg.Service == "" {
		cfg.Service = "test"
	}
	if cfg.Store == nil {
		cfg.Store = &Store{}
	}
	return cfg
}

// New is keyslot.New with [Config].
func New(tb testing.TB, cfg keyslot.Config) *keyslot.Slots {
	tb.Helper()
	s, err := keyslot.New(Config(tb, cfg))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Store is a keyslot.Store in memory. Safe for concurrent use.
type Store struct {
	mu       sync.Mutex
	rows     []keyslot.Row
	attempts map[string]keyslot.Attempts
}

// Slots returns the rows.
func (s *Store) Slots(context.Context) ([]keyslot.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rows), nil
}

// SaveSlots changes the rows.
func (s *Store) SaveSlots(_ context.Context, put []keyslot.Row, remove []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows = slices.DeleteFunc(s.rows, func(r keyslot.Row) bool {
		return slices.Contains(remove, r.ID) || slices.ContainsFunc(put, func(p keyslot.Row) bool { return p.ID == r.ID })
	})
	s.rows = append(s.rows, put...)
	return nil
}

// UpdateAttempts changes a counter.
func (s *Store) UpdateAttempts(_ context.Context, lane string, f func(keyslot.Attempts) (keyslot.Attempts, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, err := f(s.attempts[lane])
	if err != nil {
		return err
	}
	if s.attempts == nil {
		s.attempts = map[string]keyslot.Attempts{}
	}
	s.attempts[lane] = a
	return nil
}
