package store

import (
	"database/sql"
	"errors"
	"time"
)

// Throttle is the counter of one key.
type Throttle struct {
	Fails  int
	NextOK time.Time
	Last   time.Time
	Told   time.Time // of the last audit record about it
}

// ThrottleOf returns the counter, zero if there is none.
func ThrottleOf(r Reader, key []byte) (Throttle, error) {
	var t Throttle
	var next, last, told int64
	err := r.QueryRow(`SELECT fails, next_ok, last, told FROM login_throttle WHERE key = ?`, key).Scan(&t.Fails, &next, &last, &told)
	if errors.Is(err, sql.ErrNoRows) {
		return t, nil
	}
	t.NextOK, t.Last, t.Told = at(next), at(last), at(told)
	return t, err
}

// SetThrottle stores the counter.
func SetThrottle(w Writer, key []byte, t Throttle) error {
	_, err := w.Exec(`INSERT INTO login_throttle (key, fails, next_ok, last, told) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (key) DO UPDATE SET fails = excluded.fails, next_ok = excluded.next_ok, last = excluded.last, told = excluded.told`,
		key, t.Fails, ms(t.NextOK), ms(t.Last), ms(t.Told))
	return err
}

// ClearThrottle removes a counter.
func ClearThrottle(w Writer, key []byte) error {
	_, err := w.Exec(`DELETE FROM login_throttle WHERE key = ?`, key)
	return err
}

// KnownNetwork reports whether the account signed in from the prefix since then.
func KnownNetwork(r Reader, account, prefix string, since time.Time) (bool, error) {
	var n int
	err := r.QueryRow(`SELECT count(*) FROM known_network WHERE account = ? AND prefix = ? AND last_ok >= ?`, account, prefix, ms(since)).Scan(&n)
	return n > 0, err
}

// KnowNetwork records a sign-in from the prefix.
func KnowNetwork(w Writer, account, prefix string, now time.Time) error {
	_, err := w.Exec(`INSERT INTO known_network (account, prefix, last_ok) VALUES (?, ?, ?)
		ON CONFLICT (account, prefix) DO UPDATE SET last_ok = excluded.last_ok`, account, prefix, ms(now))
	return err
}

// Sweep removes rows that can never matter again.
func Sweep(w Writer, now time.Time) error {
	for _, q := range []struct {
		sql   string
		until time.Time
	}{
		{`DELETE FROM login_throttle WHERE last < ?`, now.Add(-24 * time.Hour)},
		{`DELETE FROM known_network WHERE last_ok < ?`, now.Add(-90 * 24 * time.Hour)},
		{`DELETE FROM assertion_seen WHERE expires < ?`, now},
		{`DELETE FROM setup_link WHERE expires < ?`, now.Add(-24 * time.Hour)},
		{`DELETE FROM auth_code WHERE expires < ?`, now.Add(-time.Hour)},
		{`DELETE FROM access_token WHERE expires < ?`, now},
		{`DELETE FROM revocation WHERE expires < ?`, now},
		{`DELETE FROM watcher WHERE last_seen < ?`, now.Add(-7 * 24 * time.Hour)},
	} {
		if _, err := w.Exec(q.sql, ms(q.until)); err != nil {
			return err
		}
	}
	return nil
}
