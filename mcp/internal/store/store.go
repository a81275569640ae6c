package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"strconv"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Store is the agent's database.
type Store struct{ db *db.DB }

// Open opens or makes the database and begins a new epoch.
func Open(ctx context.Context, path, version string) (*Store, error) {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, db.Config{Path: path, Service: "mcp-agent", Migrations: sub, Version: version})
	if err != nil {
		return nil, err
	}
	return &Store{db: d}, nil
}

// Close closes it.
func (s *Store) Close() error { return s.db.Close() }

// DB is the database itself, for checks and snapshots.
func (s *Store) DB() *db.DB { return s.db }

// Service is one service this node runs.
type Service struct {
	Name     string
	Desired  string // running, stopped, down
	Core     bool
	Current  int64 // generation; 0 = none yet
	Previous int64
	UID      int // of its own, for containers whose image names none
}

// Generation is one deployment of a service.
type Generation struct {
	Service  string
	N        int64
	Spec     string            // canonical
	SpecHash string            //
	Digests  map[string]string // component → manifest digest
	Slot     int               // 0 = a, 1 = b
	State    string
	Operator string
	Reason   string
	Created  time.Time
}

// Op is one operation.
type Op struct {
	ID, Key, Kind, Service string
	Generation             int64
	PlanID, State          string
	Operator, Reason       string
	Started, Ended         time.Time
	Error                  string // JSON of the error shown
}

// Step is one entry of an operation's journal.
type Step struct {
	N       int64
	Name    string
	State   string
	Detail  string
	At      time.Time
	Seconds float64
}

// Event is something that happened.
type Event struct {
	Seq      int64
	Time     time.Time
	Service  string
	Kind     string
	Severity int
	Detail   string
	Op       string
}

const timeForm = time.RFC3339Nano

func stamp(t time.Time) string { return t.UTC().Format(timeForm) }

func parseTime(s string) time.Time {
	t, err := time.Parse(timeForm, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// NextEpoch raises the epoch by one and returns it: every start of the agent is newer than all before.
func (s *Store) NextEpoch(ctx context.Context) (epoch int64, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		var v string
		epoch = 1
		switch err := tx.QueryRow(`SELECT value FROM meta WHERE key = 'epoch'`).Scan(&v); {
		case err == nil:
			n, perr := strconv.ParseInt(v, 10, 64)
			if perr != nil {
				return perr
			}
			epoch = n + 1
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		_, err := tx.Exec(`INSERT INTO meta(key, value) VALUES ('epoch', ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value`, strconv.FormatInt(epoch, 10))
		return err
	})
	return epoch, err
}

// Services returns all, by name.
func (s *Store) Services(ctx context.Context) (out []Service, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		rows, err := v.Query(`SELECT name, desired, core, current_gen, previous_gen, uid FROM service ORDER BY name`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var sv Service
			if err := rows.Scan(&sv.Name, &sv.Desired, &sv.Core, &sv.Current, &sv.Previous, &sv.UID); err != nil {
				return err
			}
			out = append(out, sv)
		}
		return rows.Err()
	})
	return out, err
}

// Service returns one; a NotFound fault if there is none.
func (s *Store) Service(ctx context.Context, name string) (sv Service, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		return v.QueryRow(`SELECT name, desired, core, current_gen, previous_gen, uid FROM service WHERE name = ?`, name).
			Scan(&sv.Name, &sv.Desired, &sv.Core, &sv.Current, &sv.Previous, &sv.UID)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return sv, fault.New(fault.NotFound, "no service %q on this node", name).WithNext("mcp ps")
	}
	return sv, err
}

// SetDesired changes what is wanted of a service.
func (s *Store) SetDesired(ctx context.Context, name, desired string) error {
	return s.exec(ctx, `UPDATE service SET desired = ? WHERE name = ?`, desired, name)
}

func (s *Store) exec(ctx context.Context, query string, args ...any) error {
	return s.db.Write(ctx, func(tx *db.Tx) error { _, err := tx.Exec(query, args...); return err })
}

// Users of services without one of their own come from here.
const firstUID, lastUID = 21000, 21999

// ServiceUID returns the service's own user id, allocating it at first use together with the row.
func (s *Store) ServiceUID(ctx context.Context, name string, core bool) (uid int, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`INSERT INTO service(name, desired, core) VALUES (?, 'running', ?) ON CONFLICT(name) DO NOTHING`, name, core)
		if err != nil {
			return err
		}
		if err := tx.QueryRow(`SELECT uid FROM service WHERE name = ?`, name).Scan(&uid); err != nil || uid != 0 {
			return err
		}
		var highest int
		if err := tx.QueryRow(`SELECT max(coalesce(max(uid), 0), ?) FROM service`, firstUID-1).Scan(&highest); err != nil {
			return err
		}
		uid = highest + 1
		if uid > lastUID {
			return fault.New(fault.Exhausted, "all user ids from %d to %d are given out", firstUID, lastUID)
		}
		_, err = tx.Exec(`UPDATE service SET uid = ? WHERE name = ?`, uid, name)
		return err
	})
	return uid, err
}

// Generation returns one generation.
func (s *Store) Generation(ctx context.Context, service string, n int64) (g Generation, err error) {
	all, err := s.generations(ctx, `SELECT service, n, spec, spec_hash, digests, slot, state, operator, reason, created FROM generation WHERE service = ? AND n = ?`, service, n)
	if err == nil && len(all) == 0 {
		err = fault.New(fault.NotFound, "%s has no generation %d", service, n).WithNext("mcp history %s", service)
	}
	if err != nil {
		return g, err
	}
	return all[0], nil
}

// Generations returns the newest first, at most limit.
func (s *Store) Generations(ctx context.Context, service string, limit int) ([]Generation, error) {
	return s.generations(ctx, `SELECT service, n, spec, spec_hash, digests, slot, state, operator, reason, created FROM generation WHERE service = ? ORDER BY n DESC LIMIT ?`, service, limit)
}

func (s *Store) generations(ctx context.Context, query string, args ...any) (out []Generation, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		rows, err := v.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var g Generation
			var digests, created string
			if err := rows.Scan(&g.Service, &g.N, &g.Spec, &g.SpecHash, &digests, &g.Slot, &g.State, &g.Operator, &g.Reason, &created); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(digests), &g.Digests); err != nil {
				return err
			}
			g.Created = parseTime(created)
			out = append(out, g)
		}
		return rows.Err()
	})
	return out, err
}

// AddGeneration writes a new one, numbered after the last.
func (s *Store) AddGeneration(ctx context.Context, g Generation) (n int64, err error) {
	digests, err := json.Marshal(g.Digests)
	if err != nil {
		return 0, err
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		if err := tx.QueryRow(`SELECT coalesce(max(n), 0) + 1 FROM generation WHERE service = ?`, g.Service).Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO generation(service, n, spec, spec_hash, digests, slot, state, operator, reason, created) VALUES (?,?,?,?,?,?,?,?,?,?)`,
			g.Service, n, g.Spec, g.SpecHash, string(digests), g.Slot, "preparing", g.Operator, g.Reason, stamp(g.Created))
		return err
	})
	return n, err
}

// SetGenerationState notes where a generation stands.
func (s *Store) SetGenerationState(ctx context.Context, service string, n int64, state string) error {
	return s.exec(ctx, `UPDATE generation SET state = ? WHERE service = ? AND n = ?`, state, service, n)
}

// Commit makes a generation the current one, in one transaction; older ones than keep are forgotten.
func (s *Store) Commit(ctx context.Context, service string, n int64, keep int) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		var current int64
		if err := tx.QueryRow(`SELECT current_gen FROM service WHERE name = ?`, service).Scan(&current); err != nil {
			return err
		}
		if current != n {
			for _, q := range []struct {
				sql  string
				args []any
			}{
				{`UPDATE generation SET state = 'retired' WHERE service = ? AND state = 'previous'`, []any{service}},
				{`UPDATE generation SET state = 'previous' WHERE service = ? AND n = ?`, []any{service, current}},
				{`UPDATE service SET previous_gen = current_gen, current_gen = ?, desired = 'running' WHERE name = ?`, []any{n, service}},
			} {
				if _, err := tx.Exec(q.sql, q.args...); err != nil {
					return err
				}
			}
		}
		if _, err := tx.Exec(`UPDATE generation SET state = 'current' WHERE service = ? AND n = ?`, service, n); err != nil {
			return err
		}
		_, err := tx.Exec(`DELETE FROM generation WHERE service = ? AND n < ? AND state NOT IN ('current','previous')`, service, n-int64(keep))
		return err
	})
}

// RemoveService forgets a service, its generations and its ports.
func (s *Store) RemoveService(ctx context.Context, name string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		for _, q := range []string{`DELETE FROM port WHERE service = ?`, `DELETE FROM generation WHERE service = ?`, `DELETE FROM service WHERE name = ?`} {
			if _, err := tx.Exec(q, name); err != nil {
				return err
			}
		}
		return nil
	})
}
