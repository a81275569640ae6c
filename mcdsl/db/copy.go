package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
)

// Snapshot writes a consistent, compact copy of the open database to dst, which must not exist.
func (d *DB) Snapshot(ctx context.Context, dst string) error { return CopyFile(ctx, d.cfg.Path, dst) }

// CopyFile writes a consistent copy of the database src, in use or not, to dst (0600), which must not
// exist: VACUUM INTO on a handle of its own, then rename.
func CopyFile(ctx context.Context, src, dst string) (err error) {
	if _, err := os.Lstat(dst); !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Exists, "%s is there already", dst)
	}
	tmp := dst + ".part"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(tmp)
		}
	}()
	h, err := sql.Open("sqlite", makeDSN(src, "ro"))
	if err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	defer func() { _ = h.Close() }()
	if _, err := h.ExecContext(ctx, "VACUUM INTO ?", tmp); err != nil {
		return fmt.Errorf("copy database: %w", mapError(err))
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	if err := os.Rename(tmp, dst); err != nil {
		return fmt.Errorf("copy database: %w", err)
	}
	return secret.SyncDir(filepath.Dir(dst))
}

// CheckFile runs integrity_check and foreign_key_check on a database nobody has open.
func CheckFile(ctx context.Context, path string) error {
	h, err := sql.Open("sqlite", makeDSN(path, "ro"))
	if err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	defer func() { _ = h.Close() }()
	conn, err := h.Conn(ctx)
	if err != nil {
		return fmt.Errorf("check database: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := pragmaCheck(ctx, conn, "integrity_check(1)"); err != nil {
		return fault.New(fault.Precondition, "the database %s is damaged", path).WithReason("DAMAGED").Wrap(err)
	}
	tx := &Tx{ctx: ctx, conn: conn}
	defer tx.finish()
	if err := foreignKeyCheck(tx); err != nil {
		return fault.New(fault.Precondition, "the database %s is damaged", path).WithReason("DAMAGED").Wrap(err)
	}
	return nil
}

// Info is what a database file says about itself.
type Info struct {
	Service string           `json:"service"`
	ID      string           `json:"id"`
	Schema  int              `json:"schema"`
	Version string           `json:"version"` // of the binary that wrote the schema
	Rows    map[string]int64 `json:"rows"`
}

// Inspect reads what a database file, in use or not, says about itself.
func Inspect(ctx context.Context, path string) (Info, error) {
	info := Info{Rows: map[string]int64{}}
	h, err := sql.Open("sqlite", makeDSN(path, "ro"))
	if err != nil {
		return info, fmt.Errorf("inspect database: %w", err)
	}
	defer func() { _ = h.Close() }()
	tx, err := h.BeginTx(ctx, nil)
	if err != nil {
		return info, fmt.Errorf("inspect database: %w", mapError(err))
	}
	defer func() { _ = tx.Rollback() }()
	v := &View{ctx: ctx, tx: tx}
	for key, dst := range map[string]*string{"service": &info.Service, "id": &info.ID} {
		if err := v.QueryRow("SELECT value FROM schema_meta WHERE key=?", key).Scan(dst); err != nil {
			return info, fmt.Errorf("inspect database %s: %w", path, err)
		}
	}
	err = v.QueryRow("SELECT number, binary_version FROM schema_migration ORDER BY number DESC LIMIT 1").Scan(&info.Schema, &info.Version)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return info, fmt.Errorf("inspect database %s: %w", path, err)
	}
	tables, err := tableNames(v)
	if err != nil {
		return info, fmt.Errorf("inspect database %s: %w", path, err)
	}
	for _, t := range tables {
		var n int64
		if err := v.QueryRow(`SELECT count(*) FROM "` + t + `"`).Scan(&n); err != nil {
			return info, fmt.Errorf("count rows of %s: %w", t, err)
		}
		info.Rows[t] = n
	}
	return info, nil
}

func tableNames(v *View) (out []string, err error) {
	rows, err := v.Query(`SELECT name FROM sqlite_schema WHERE type='table' AND name NOT GLOB 'sqlite_*' AND name NOT LIKE '%"%' ORDER BY name`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var n string
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, rows.Err()
}
