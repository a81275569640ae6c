package db

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"modernc.org/sqlite"

	"metacircular.net/mcdsl/fault"
)

// Tx is a write in progress. It belongs to the function it is given to and is dead afterwards.
type Tx struct {
	ctx    context.Context
	conn   *sql.Conn
	sticky error // the first error that ended the transaction
	done   bool
	rows   []*Rows // open results, closed at the end
}

// Context returns the context statements run on. It marks a running Write, so that a nested one is found.
func (t *Tx) Context() context.Context { return t.ctx }

// ready refuses statements on a dead or ended transaction.
func (t *Tx) ready() error {
	switch {
	case t.sticky != nil:
		return t.sticky
	case t.done:
		return errors.New("db: transaction used after its function returned")
	}
	return nil
}

// note remembers an error that ended the transaction, and proves for the others that it still stands.
func (t *Tx) note(err error) error {
	if err == nil || t.sticky != nil || errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if endsTransaction(err) {
		t.sticky = mapError(err)
		return t.sticky
	}
	var se *sqlite.Error
	if errors.As(err, &se) {
		// ON CONFLICT ROLLBACK and RAISE(ROLLBACK) end it with a constraint error. BEGIN fails inside a
		// transaction and only there.
		_, probe := t.conn.ExecContext(context.WithoutCancel(t.ctx), "BEGIN")
		if probe == nil || !strings.Contains(probe.Error(), "within a transaction") {
			t.sticky = err
		}
	}
	return err
}

// Exec runs a statement.
func (t *Tx) Exec(query string, args ...any) (sql.Result, error) {
	if err := t.ready(); err != nil {
		return nil, err
	}
	r, err := t.conn.ExecContext(t.ctx, query, args...)
	return r, t.note(err)
}

// Query runs a query. Rows left open are closed when the function ends.
func (t *Tx) Query(query string, args ...any) (*Rows, error) {
	if err := t.ready(); err != nil {
		return nil, err
	}
	r, err := t.conn.QueryContext(t.ctx, query, args...) //nolint:rowserrcheck // Rows.Err is the caller's
	if err != nil {
		return nil, t.note(err)
	}
	rows := &Rows{rows: r, note: t.note}
	t.rows = append(t.rows, rows)
	return rows, nil
}

// QueryRow runs a query for at most one row.
func (t *Tx) QueryRow(query string, args ...any) *Row {
	rows, err := t.Query(query, args...)
	return &Row{rows: rows, err: err}
}

// finish closes what the function left open and ends the Tx.
func (t *Tx) finish() {
	t.done = true
	for _, r := range t.rows {
		_ = r.rows.Close()
	}
	t.rows = nil
}

// View is a consistent look at the database: all its queries see the same state.
type View struct {
	ctx context.Context
	tx  *sql.Tx
}

// Context returns the context queries run on.
func (v *View) Context() context.Context { return v.ctx }

// Query runs a query.
func (v *View) Query(query string, args ...any) (*Rows, error) {
	r, err := v.tx.QueryContext(v.ctx, query, args...) //nolint:rowserrcheck // Rows.Err is the caller's
	if err != nil {
		return nil, mapError(err)
	}
	return &Rows{rows: r, note: mapError}, nil
}

// QueryRow runs a query for at most one row.
func (v *View) QueryRow(query string, args ...any) *Row {
	rows, err := v.Query(query, args...)
	return &Row{rows: rows, err: err}
}

// Queryer is what Tx and View share, for functions that read within either.
type Queryer interface {
	Context() context.Context
	Query(query string, args ...any) (*Rows, error)
	QueryRow(query string, args ...any) *Row
}

// Rows is a result. Use it as sql.Rows: Next, Scan, Err, Close.
type Rows struct {
	rows *sql.Rows
	note func(error) error
}

// Next goes to the next row.
func (r *Rows) Next() bool { return r.rows.Next() }

// Scan reads the columns of the row.
func (r *Rows) Scan(dest ...any) error { return r.rows.Scan(dest...) }

// Err returns what ended the iteration early.
func (r *Rows) Err() error { return r.note(r.rows.Err()) }

// Close ends the result. Idempotent.
func (r *Rows) Close() error { return r.rows.Close() }

// Columns returns the names of the columns.
func (r *Rows) Columns() ([]string, error) { return r.rows.Columns() }

// Row is a result of at most one row.
type Row struct {
	rows *Rows
	err  error
}

// Scan reads the row, or returns ErrNoRows.
func (r *Row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer func() { _ = r.rows.Close() }()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return sql.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	return r.rows.note(r.rows.rows.Close())
}

// Read runs fn on a consistent view. It may take 30 s at most: a longer read would let the WAL grow.
func (d *DB) Read(ctx context.Context, fn func(*View) error) error {
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return errClosed()
	}
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	tx, err := d.readers.BeginTx(ctx, nil)
	if err != nil {
		return mapError(err)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return fn(&View{ctx: ctx, tx: tx})
}

func errClosed() error {
	return fault.New(fault.Unavailable, "the database is closed").WithReason("DRAINING")
}
