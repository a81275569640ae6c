package store

import (
	"context"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
)

// EventsKept is how long events can be asked for.
const EventsKept = 7 * 24 * time.Hour

type event struct {
	kind, repo, tag, digest, old, who string
	at                                int64
}

func emit(tx *db.Tx, e event) error {
	_, err := tx.Exec(`INSERT INTO events (kind, repo, tag, digest, old, who, at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		e.kind, e.repo, e.tag, e.digest, e.old, e.who, e.at)
	if err != nil {
		return fmt.Errorf("record event: %w", err)
	}
	return nil
}

// Event is one change.
type Event struct {
	Seq       int64
	Kind      string
	Repo      string
	Tag       string
	Digest    string
	OldDigest string
	Who       string
	At        time.Time
}

// Epoch names this life of the database: after a restore it is another, and old cursors mean nothing.
func (s *Store) Epoch() string { return s.epoch }

func (s *Store) loadEpoch(ctx context.Context) error {
	epoch, err := s.Meta(ctx, "event_epoch")
	if err != nil {
		return fmt.Errorf("event epoch: %w", err)
	}
	if epoch == "" {
		epoch = NewID()
		if err := s.SetMeta(ctx, "event_epoch", epoch); err != nil {
			return fmt.Errorf("event epoch: %w", err)
		}
	}
	s.epoch = epoch
	return nil
}

// Changed returns a channel that is closed at the next change; ask before reading, then wait.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Events returns up to n events after seq in order, and the oldest and newest sequence there is.
func (s *Store) Events(ctx context.Context, after int64, n int) (out []Event, oldest, newest int64, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out = nil
		if err := v.QueryRow(`SELECT coalesce(min(seq), 0), coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)
			FROM events`).Scan(&oldest, &newest); err != nil {
			return err
		}
		rows, err := v.Query(`SELECT seq, kind, repo, tag, digest, old, who, at FROM events WHERE seq > ? ORDER BY seq LIMIT ?`, after, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Event
			var at int64
			if err := rows.Scan(&e.Seq, &e.Kind, &e.Repo, &e.Tag, &e.Digest, &e.OldDigest, &e.Who, &at); err != nil {
				return err
			}
			e.At = fromMicro(at)
			out = append(out, e)
		}
		return rows.Err()
	})
	return out, oldest, newest, err
}

// TrimEvents removes events older than EventsKept.
func (s *Store) TrimEvents(ctx context.Context) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`DELETE FROM events WHERE at < ?`, micro(s.clock.Now().Add(-EventsKept)))
		return err
	})
}
