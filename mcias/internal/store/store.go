package store

import (
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"metacircular.net/mcdsl/db"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the embedded schema steps.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
}

// ErrNotFound is returned when a row is not there.
var ErrNotFound = errors.New("not found")

// Reader is what queries need; *db.Tx and *db.View are both one.
type Reader = db.Queryer

// Writer is a transaction.
type Writer interface {
	Reader
	Exec(query string, args ...any) (sql.Result, error)
}

// ms and at convert times; the zero time is 0.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func at(v int64) time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMilli(v).UTC()
}

// list and unlist convert string lists to JSON and back.
func list(v []string) string {
	if len(v) == 0 {
		return "[]"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "[]" // strings always marshal
	}
	return string(b)
}

func unlist(s string) []string {
	var v []string
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return nil
	}
	return v
}

// one turns the error of a single-row scan into ours.
func one(what string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", what, err)
	}
	return nil
}

// changed reports how many rows a statement changed.
func changed(res sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := res.RowsAffected()
	return int(n), err
}

// collect scans all rows of a query.
func collect[T any](rows *db.Rows, err error, scan func(func(...any) error) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

func text(scan func(...any) error) (string, error) {
	var s string
	err := scan(&s)
	return s, err
}

// Meta keys.
const (
	MetaStreamID   = "stream_id"
	MetaHighWater  = "high_water_time"
	MetaHeld       = "sealed_by_hand"
	MetaIssuer     = "issuer"
	MetaInitiated  = "initialized"
	MetaFirstAdmin = "first_admin"
)

// Meta returns a value, "" if it was never set.
func Meta(r Reader, key string) (string, error) {
	var v string
	err := r.QueryRow(`SELECT value FROM meta WHERE key = ?`, key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, err
}

// SetMeta stores a value.
func SetMeta(w Writer, key, value string) error {
	_, err := w.Exec(`INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
	return err
}
