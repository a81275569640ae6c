package store

import (
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/keyslot"
)

// Keys of the table meta.
const (
	MetaInstance = "instance_id"
	MetaHold     = "hold"
)

// Meta returns a value, nil if there is none.
func Meta(q db.Queryer, key string) ([]byte, error) {
	var v []byte
	err := q.QueryRow(`SELECT value FROM meta WHERE key = ?`, key).Scan(&v)
	if errors.Is(err, db.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read meta %s: %w", key, err)
	}
	return v, nil
}

// SetMeta stores a value; nil deletes it.
func SetMeta(tx *db.Tx, key string, v []byte) error {
	if v == nil {
		_, err := tx.Exec(`DELETE FROM meta WHERE key = ?`, key)
		return err
	}
	_, err := tx.Exec(`INSERT INTO meta(key, value) VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value`, key, v)
	return err
}

// NextSequence returns the next number of a sequence, from 1.
func NextSequence(tx *db.Tx, name string) (uint64, error) {
	var n int64
	err := tx.QueryRow(`INSERT INTO sequences(name, value) VALUES (?, 1)
		ON CONFLICT(name) DO UPDATE SET value = value + 1 RETURNING value`, name).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("sequence %s: %w", name, err)
	}
	return uint64(n), nil //nolint:gosec // starts at 1 and rises
}

// UpdateAttempts changes the counter of a lane.
func UpdateAttempts(tx *db.Tx, lane string, f func(keyslot.Attempts) (keyslot.Attempts, error)) error {
	var count, next int64
	err := tx.QueryRow(`SELECT count, next_at FROM unseal_attempts WHERE lane = ?`, lane).Scan(&count, &next)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return fmt.Errorf("read attempts: %w", err)
	}
	a := keyslot.Attempts{Count: uint32(max(0, min(count, 1<<30)))} //nolint:gosec // bounded
	if next > 0 {
		a.NextAt = time.UnixMilli(next)
	}
	if a, err = f(a); err != nil {
		return err
	}
	next = 0
	if !a.NextAt.IsZero() {
		next = a.NextAt.UnixMilli()
	}
	_, err = tx.Exec(`INSERT INTO unseal_attempts(lane, count, next_at) VALUES (?, ?, ?)
		ON CONFLICT(lane) DO UPDATE SET count = excluded.count, next_at = excluded.next_at`, lane, int64(a.Count), next)
	return err
}

// NextAttempt returns when a lane may be tried again; the zero time if now.
func NextAttempt(q db.Queryer, lane string) (time.Time, error) {
	var next int64
	err := q.QueryRow(`SELECT next_at FROM unseal_attempts WHERE lane = ?`, lane).Scan(&next)
	if errors.Is(err, db.ErrNoRows) || next == 0 {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read attempts: %w", err)
	}
	return time.UnixMilli(next), nil
}
