package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// Live states of an operation; the others are ends.
const (
	OpRunning   = "running"
	OpLive      = "live"
	OpSucceeded = "succeeded"
	OpFailed    = "failed"
	OpReverted  = "reverted"
	OpCancelled = "cancelled"
)

// Begin writes a new operation. A second one on a service is refused while one lives, by name of its id; a repeated
// idempotency key returns the first operation with joined set.
func (s *Store) Begin(ctx context.Context, op Op) (got Op, joined bool, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		got, joined = op, false
		if op.Key != "" {
			old, err := scanOp(tx.QueryRow(opColumns+` WHERE idempotency_key = ?`, op.Key))
			if err == nil {
				got, joined = old, true
				return nil
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		var other string
		err := tx.QueryRow(`SELECT id FROM op WHERE service = ? AND state IN ('running','live')`, op.Service).Scan(&other)
		if err == nil {
			return fault.New(fault.Conflict, "operation %s is in progress on %s", other, op.Service).WithReason("IN_PROGRESS").WithNext("mcp op watch %s", other)
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		var key any
		if op.Key != "" {
			key = op.Key
		}
		_, err = tx.Exec(`INSERT INTO op(id, idempotency_key, kind, service, generation, plan_id, state, operator, reason, started) VALUES (?,?,?,?,?,?,?,?,?,?)`,
			op.ID, key, op.Kind, op.Service, op.Generation, op.PlanID, OpRunning, op.Operator, op.Reason, stamp(op.Started))
		return err
	})
	return got, joined, err
}

const opColumns = `SELECT id, coalesce(idempotency_key,''), kind, service, generation, plan_id, state, operator, reason, started, coalesce(ended,''), coalesce(error,'') FROM op`

type scanner interface{ Scan(dest ...any) error }

func scanOp(r scanner) (op Op, err error) {
	var started, ended string
	err = r.Scan(&op.ID, &op.Key, &op.Kind, &op.Service, &op.Generation, &op.PlanID, &op.State, &op.Operator, &op.Reason, &started, &ended, &op.Error)
	op.Started, op.Ended = parseTime(started), parseTime(ended)
	return op, err
}

// Op returns one operation.
func (s *Store) Op(ctx context.Context, id string) (op Op, err error) {
	err = s.db.Read(ctx, func(v *db.View) (err error) {
		op, err = scanOp(v.QueryRow(opColumns+` WHERE id = ?`, id))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return op, fault.New(fault.NotFound, "no operation %q", id).WithNext("mcp op list")
	}
	return op, err
}

// Ops returns the newest first; an empty service is all.
func (s *Store) Ops(ctx context.Context, service string, limit int) (out []Op, err error) {
	return s.ops(ctx, opColumns+` WHERE (? = '' OR service = ?) ORDER BY started DESC LIMIT ?`, service, service, limit)
}

// LiveOps returns what has not ended, oldest first: what a restart must decide.
func (s *Store) LiveOps(ctx context.Context) ([]Op, error) {
	return s.ops(ctx, opColumns+` WHERE state IN ('running','live') ORDER BY started`)
}

func (s *Store) ops(ctx context.Context, query string, args ...any) (out []Op, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		rows, err := v.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			op, err := scanOp(rows)
			if err != nil {
				return err
			}
			out = append(out, op)
		}
		return rows.Err()
	})
	return out, err
}

// SetOp notes the state of an operation and the generation it makes.
func (s *Store) SetOp(ctx context.Context, id, state string, generation int64) error {
	return s.exec(ctx, `UPDATE op SET state = ?, generation = ? WHERE id = ?`, state, generation, id)
}

// End writes how an operation ended.
func (s *Store) End(ctx context.Context, id, state, errJSON string, at time.Time) error {
	return s.exec(ctx, `UPDATE op SET state = ?, error = nullif(?, ''), ended = ? WHERE id = ?`, state, errJSON, stamp(at), id)
}

// PutStep writes a journal entry, or its end.
func (s *Store) PutStep(ctx context.Context, op string, st Step) error {
	return s.exec(ctx, `INSERT INTO op_step(op, n, name, state, detail, at, seconds) VALUES (?,?,?,?,?,?,?)
		ON CONFLICT(op, n) DO UPDATE SET state = excluded.state, detail = excluded.detail, seconds = excluded.seconds`,
		op, st.N, st.Name, st.State, st.Detail, stamp(st.At), st.Seconds)
}

// Steps returns an operation's journal.
func (s *Store) Steps(ctx context.Context, op string) (out []Step, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		rows, err := v.Query(`SELECT n, name, state, detail, at, seconds FROM op_step WHERE op = ? ORDER BY n`, op)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var st Step
			var at string
			if err := rows.Scan(&st.N, &st.Name, &st.State, &st.Detail, &at, &st.Seconds); err != nil {
				return err
			}
			st.At = parseTime(at)
			out = append(out, st)
		}
		return rows.Err()
	})
	return out, err
}

// maxEvents bounds the event table.
const maxEvents = 20_000

// AddEvent appends an event.
func (s *Store) AddEvent(ctx context.Context, e Event) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`INSERT INTO event(ts, service, kind, severity, detail, op) VALUES (?,?,?,?,?,?)`, stamp(e.Time), e.Service, e.Kind, e.Severity, e.Detail, e.Op)
		if err != nil {
			return err
		}
		seq, err := res.LastInsertId()
		if err != nil {
			return err
		}
		_, err = tx.Exec(`DELETE FROM event WHERE seq <= ?`, seq-maxEvents)
		return err
	})
}

// Events returns the newest first; an empty service or kind is all.
func (s *Store) Events(ctx context.Context, service, kind string, limit int) (out []Event, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		rows, err := v.Query(`SELECT seq, ts, service, kind, severity, detail, op FROM event WHERE (? = '' OR service = ?) AND (? = '' OR kind = ?) ORDER BY seq DESC LIMIT ?`,
			service, service, kind, kind, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e Event
			var ts string
			if err := rows.Scan(&e.Seq, &ts, &e.Service, &e.Kind, &e.Severity, &e.Detail, &e.Op); err != nil {
				return err
			}
			e.Time = parseTime(ts)
			out = append(out, e)
		}
		return rows.Err()
	})
	return out, err
}
