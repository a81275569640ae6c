package db

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"metacircular.net/mcdsl/fault"
)

// Step is a migration written in Go. Its checksum is that of its name.
type Step struct {
	Name string
	Run  func(tx *Tx) error
}

// foreignKeysOff is the header line of a migration that rebuilds tables: foreign keys are off while it
// runs and checked before it commits.
const foreignKeysOff = "-- foreign_keys: off"

type migration struct {
	number int
	name   string
	sha    string
	sql    string
	step   func(tx *Tx) error
}

const bookkeeping = `
CREATE TABLE IF NOT EXISTS schema_meta(
	key   TEXT PRIMARY KEY,
	value TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS schema_migration(
	number         INTEGER PRIMARY KEY,
	name           TEXT NOT NULL,
	sha256         TEXT NOT NULL,
	binary_version TEXT NOT NULL,
	applied_at     TEXT NOT NULL
) STRICT;`

var migrationName = regexp.MustCompile(`^([0-9]{4})_([a-z0-9_]+)\.sql$`)

// migrations lists the steps the binary knows: contiguous from 1.
func (d *DB) migrations() ([]migration, error) {
	var out []migration
	if d.cfg.Migrations != nil {
		for _, dir := range []string{".", "migrations"} {
			entries, err := fs.ReadDir(d.cfg.Migrations, dir)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read migrations: %w", err)
			}
			for _, e := range entries {
				if e.IsDir() || !strings.HasSuffix(e.Name(), ".sql") {
					continue
				}
				m := migrationName.FindStringSubmatch(e.Name())
				if m == nil {
					return nil, fmt.Errorf("migration %q is not named NNNN_name.sql", e.Name())
				}
				text, err := fs.ReadFile(d.cfg.Migrations, path.Join(dir, e.Name()))
				if err != nil {
					return nil, fmt.Errorf("read migration: %w", err)
				}
				n, err := strconv.Atoi(m[1])
				if err != nil {
					return nil, fmt.Errorf("migration %q: %w", e.Name(), err)
				}
				out = append(out, migration{number: n, name: m[2], sha: sum(text), sql: string(text)})
			}
		}
	}
	for n, s := range d.cfg.Steps {
		out = append(out, migration{number: n, name: s.Name, sha: sum([]byte(s.Name)), step: s.Run})
	}
	slices.SortFunc(out, func(a, b migration) int { return a.number - b.number })
	for i, m := range out {
		if m.number != i+1 {
			return nil, fmt.Errorf("migration %04d_%s: expected number %04d", m.number, m.name, i+1)
		}
	}
	return out, nil
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// migrate brings the schema up to date, or refuses one that is newer or was changed.
func (d *DB) migrate(ctx context.Context) error {
	known, err := d.migrations()
	if err != nil {
		return err
	}
	if err := d.bookkeeping(ctx); err != nil {
		return err
	}
	applied, err := d.applied(ctx)
	if err != nil {
		return err
	}
	for i, a := range applied {
		if i >= len(known) {
			last := applied[len(applied)-1]
			return fault.New(fault.Precondition, "schema %d written by %s %s; this is %s and knows %d",
				last.number, d.cfg.Service, last.version, orUnknown(d.cfg.Version), len(known)).
				WithReason("NEWER_SCHEMA").WithNext("use %s or later, or `%s restore FILE`", last.version, d.cfg.Service)
		}
		k := known[i]
		if a.number != k.number || a.sha != k.sha {
			return fault.New(fault.Precondition, "migration %04d_%s is not the one that was applied (%s): history was changed",
				k.number, k.name, a.name).WithReason("CHANGED_MIGRATION").
				WithNext("use the binary that wrote it: %s %s", d.cfg.Service, a.version)
		}
	}
	d.schema = len(known)
	pending := known[len(applied):]
	if len(pending) == 0 {
		return nil
	}
	if len(applied) > 0 {
		if err := d.copyBefore(ctx, len(applied), len(known)); err != nil {
			return err
		}
	}
	for _, m := range pending {
		if err := d.apply(ctx, m); err != nil {
			return fmt.Errorf("migration %04d_%s: %w", m.number, m.name, err)
		}
		d.log.Info("schema migrated", "number", m.number, "name", m.name)
	}
	return nil
}

func orUnknown(v string) string {
	if v == "" {
		return "an unnamed version"
	}
	return v
}

// bookkeeping makes our two tables and the database's id. It only writes when something is missing.
func (d *DB) bookkeeping(ctx context.Context) error {
	read := func() error {
		return d.writer.QueryRowContext(ctx, "SELECT value FROM schema_meta WHERE key='id'").Scan(&d.id)
	}
	if read() == nil {
		return nil
	}
	id := rand.Text()
	return d.Write(ctx, func(tx *Tx) error {
		if _, err := tx.Exec(bookkeeping); err != nil {
			return err
		}
		if _, err := tx.Exec("INSERT INTO schema_meta(key, value) VALUES ('id', ?), ('service', ?) ON CONFLICT DO NOTHING",
			id, d.cfg.Service); err != nil {
			return err
		}
		return tx.QueryRow("SELECT value FROM schema_meta WHERE key='id'").Scan(&d.id)
	})
}

type appliedRow struct {
	number             int
	name, sha, version string
}

func (d *DB) applied(ctx context.Context) (out []appliedRow, err error) {
	rows, err := d.writer.QueryContext(ctx, "SELECT number, name, sha256, binary_version FROM schema_migration ORDER BY number")
	if err != nil {
		return nil, fmt.Errorf("read schema: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var a appliedRow
		if err := rows.Scan(&a.number, &a.name, &a.sha, &a.version); err != nil {
			return nil, fmt.Errorf("read schema: %w", err)
		}
		if a.number != len(out)+1 {
			return nil, fault.New(fault.Precondition, "the schema's history has a gap before %d", a.number).WithReason("CHANGED_MIGRATION")
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

// apply runs one migration with its row in one transaction.
func (d *DB) apply(ctx context.Context, m migration) error {
	off := strings.HasPrefix(m.sql, foreignKeysOff)
	pragma := func(v string) error {
		_, err := d.writer.ExecContext(ctx, "PRAGMA foreign_keys="+v)
		return err
	}
	if off {
		if err := pragma("0"); err != nil {
			return err
		}
		defer func() { _ = pragma("1") }()
	}
	return d.Write(ctx, func(tx *Tx) error {
		if m.step != nil {
			if err := m.step(tx); err != nil {
				return err
			}
		} else if _, err := tx.Exec(m.sql); err != nil {
			return err
		}
		if off {
			if err := foreignKeyCheck(tx); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`INSERT INTO schema_migration(number, name, sha256, binary_version, applied_at) VALUES (?, ?, ?, ?, ?)`,
			m.number, m.name, m.sha, orUnknown(d.cfg.Version), d.cfg.Clock.Now().UTC().Format("2006-01-02T15:04:05Z"))
		return err
	})
}

func foreignKeyCheck(q interface {
	Query(query string, args ...any) (*Rows, error)
}) error {
	rows, err := q.Query("PRAGMA foreign_key_check")
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	if rows.Next() {
		var table, parent sql.NullString
		var rowid, fk sql.NullInt64
		if err := rows.Scan(&table, &rowid, &parent, &fk); err != nil {
			return err
		}
		return fmt.Errorf("a row of %s refers to a missing row of %s", table.String, parent.String)
	}
	return rows.Err()
}

// copyBefore makes and checks the copy that a failed migration is undone with.
func (d *DB) copyBefore(ctx context.Context, from, to int) error {
	dir := filepath.Join(filepath.Dir(d.cfg.Path), "backups")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("copy before migration: %w", err)
	}
	name := filepath.Join(dir, fmt.Sprintf("pre-%d-%d-%s.db", from, to, d.cfg.Clock.Now().UTC().Format("20060102T150405Z")))
	if err := CopyFile(ctx, d.cfg.Path, name); err != nil {
		return fmt.Errorf("copy before migration: %w", err)
	}
	if err := CheckFile(ctx, name); err != nil {
		return fmt.Errorf("copy before migration %s: %w", name, err)
	}
	d.log.Info("copied the database before migrating", "copy", name)
	return nil
}
