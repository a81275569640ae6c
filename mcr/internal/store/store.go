package store

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema's history, for opening and for restoring.
func Migrations() embed.FS { return migrations }

// Store is the registry's database.
type Store struct {
	db    *db.DB
	clock clock.Clock
	epoch string

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when events were written
}

// New returns a store on an open database.
func New(ctx context.Context, d *db.DB, c clock.Clock) (*Store, error) {
	s := &Store{db: d, clock: clock.Or(c), changed: make(chan struct{})}
	if err := s.loadEpoch(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// DB returns the database, for snapshots and checks.
func (s *Store) DB() *db.DB { return s.db }

// Probe writes one row: whether the disk takes writes.
func (s *Store) Probe(ctx context.Context) error {
	return s.SetMeta(ctx, "probe", s.clock.Now().UTC().Format(time.RFC3339))
}

// Meta returns a value of the store's own bookkeeping, "" if it is not set.
func (s *Store) Meta(ctx context.Context, key string) (value string, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		err := v.QueryRow(`SELECT value FROM meta WHERE key = ?`, key).Scan(&value)
		if errors.Is(err, db.ErrNoRows) {
			return nil
		}
		return err
	})
	return value, err
}

// SetMeta keeps a value of the store's own bookkeeping.
func (s *Store) SetMeta(ctx context.Context, key, value string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error { return setMeta(tx, key, value) })
}

func setMeta(tx *db.Tx, key, value string) error {
	_, err := tx.Exec(`INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
	return err
}

// write runs a transaction and wakes the watchers of events.
func (s *Store) write(ctx context.Context, fn func(tx *db.Tx) error) error {
	if err := s.db.Write(ctx, fn); err != nil {
		return err
	}
	s.mu.Lock()
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	return nil
}

func (s *Store) now() int64 { return s.clock.Now().UnixMicro() }

func micro(t time.Time) int64 { return t.UnixMicro() }

func fromMicro(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}

func fromNull(n *int64) time.Time {
	if n == nil {
		return time.Time{}
	}
	return fromMicro(*n)
}

// NewID returns a random id of 128 bits.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// repoID returns the id of a repository, or db.ErrNoRows.
func repoID(q db.Queryer, name string) (id int64, err error) {
	err = q.QueryRow(`SELECT id FROM repos WHERE name = ?`, name).Scan(&id)
	return id, err
}

// ensureRepo returns the id of a repository, making it at its first successful push.
func ensureRepo(tx *db.Tx, name string, now int64) (int64, error) {
	id, err := repoID(tx, name)
	if !errors.Is(err, db.ErrNoRows) {
		return id, err
	}
	err = tx.QueryRow(`INSERT INTO repos (name, kind, created) VALUES (?, 'local', ?) RETURNING id`, name, now).Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("make repository: %w", err)
	}
	return id, nil
}

// ForgetLife prepares a restored database for its new life: another event epoch, no uploads, and the given
// keys of the bookkeeping set.
func ForgetLife(ctx context.Context, d *db.DB, keys ...string) error {
	return d.Write(ctx, func(tx *db.Tx) error {
		if err := setMeta(tx, "event_epoch", NewID()); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM uploads`); err != nil {
			return err
		}
		for _, k := range keys {
			if err := setMeta(tx, k, "restored"); err != nil {
				return err
			}
		}
		return nil
	})
}
