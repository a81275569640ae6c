package store

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"time"

	"metacircular.net/mcdsl/db"

	"metacircular.net/mc-proxy/internal/route"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations returns the schema's steps.
func Migrations() fs.FS { return files }

// auditKeep is how many audit rows are kept; the log has them all.
const auditKeep = 10000

// Table is what the database holds.
type Table struct {
	Generation int64
	NextID     int64
	Routes     []*route.Route
}

// Change is one committed step of the table.
type Change struct {
	Generation int64
	NextID     int64
	Put        []*route.Route
	Delete     []int64
}

// Load reads the whole table.
func Load(ctx context.Context, d *db.DB) (Table, error) {
	var t Table
	err := d.Read(ctx, func(v *db.View) error {
		if err := v.QueryRow(`SELECT value FROM meta WHERE key = 'generation'`).Scan(&t.Generation); err != nil {
			return fmt.Errorf("read generation: %w", err)
		}
		if err := v.QueryRow(`SELECT value FROM meta WHERE key = 'next_id'`).Scan(&t.NextID); err != nil {
			return fmt.Errorf("read next id: %w", err)
		}
		byID := map[int64]*route.Route{}
		if err := loadRoutes(v, &t, byID); err != nil {
			return fmt.Errorf("read routes: %w", err)
		}
		if err := loadBackends(v, byID); err != nil {
			return fmt.Errorf("read backends: %w", err)
		}
		if err := loadHolds(v, byID); err != nil {
			return fmt.Errorf("read holds: %w", err)
		}
		return nil
	})
	return t, err
}

func loadRoutes(v *db.View, t *Table, byID map[int64]*route.Route) error {
	rows, err := v.Query(`SELECT id, listener, hostname, alpn, mode, proto, tls_cert, tls_key, backend_tls, backend_name, proxy_out, proxy_key,
		health_check, timeouts, hsts, owner, lease_ttl, created_by, revision, last_op FROM route ORDER BY id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var r route.Route
		var check, timeouts string
		s := &r.Spec
		if err := rows.Scan(&r.ID, &s.Listener, &s.Hostname, &s.ALPN, &s.Mode, &s.Proto, &s.TLSCert, &s.TLSKey, &s.BackendTLS, &s.BackendName,
			&s.ProxyOut, &s.ProxyKey, &check, &timeouts, &s.HSTS, &s.Owner, &s.LeaseTTL, &r.CreatedBy, &r.Revision, &r.LastOp); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(check), &s.Check); err != nil {
			return fmt.Errorf("check of route %d: %w", r.ID, err)
		}
		if err := json.Unmarshal([]byte(timeouts), &s.Timeouts); err != nil {
			return fmt.Errorf("timeouts of route %d: %w", r.ID, err)
		}
		t.Routes = append(t.Routes, &r)
		byID[r.ID] = &r
	}
	return rows.Err()
}

func loadBackends(v *db.View, byID map[int64]*route.Route) error {
	rows, err := v.Query(`SELECT route_id, addr, weight, state, drain_until FROM backend ORDER BY route_id, addr`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, until int64
		var addr, state string
		var weight int
		if err := rows.Scan(&id, &addr, &weight, &state, &until); err != nil {
			return err
		}
		r := byID[id]
		if r == nil {
			continue
		}
		if state == "draining" {
			r.Draining = append(r.Draining, route.Draining{Addr: addr, Until: fromUnix(until)})
		} else {
			r.Spec.Backends = append(r.Spec.Backends, route.Backend{Addr: addr, Weight: weight})
		}
	}
	return rows.Err()
}

func loadHolds(v *db.View, byID map[int64]*route.Route) error {
	rows, err := v.Query(`SELECT route_id, op, held_by, until, max_wait, max_queued FROM hold`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, until int64
		var h route.Hold
		if err := rows.Scan(&id, &h.Op, &h.By, &until, &h.MaxWait, &h.MaxQueued); err != nil {
			return err
		}
		if r := byID[id]; r != nil {
			h.Until = fromUnix(until)
			r.Hold = &h
		}
	}
	return rows.Err()
}

func fromUnix(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

func toUnix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// Apply writes a change within tx. Deletions come first, so that a key may move to another route.
func Apply(tx *db.Tx, c Change) error {
	for _, id := range c.Delete {
		if _, err := tx.Exec(`DELETE FROM route WHERE id = ?`, id); err != nil {
			return fmt.Errorf("delete route %d: %w", id, err)
		}
	}
	for _, r := range c.Put {
		if err := put(tx, r); err != nil {
			return fmt.Errorf("write route %s: %w", r.Spec.Key, err)
		}
	}
	if _, err := tx.Exec(`UPDATE meta SET value = ? WHERE key = 'generation'`, c.Generation); err != nil {
		return fmt.Errorf("write generation: %w", err)
	}
	if _, err := tx.Exec(`UPDATE meta SET value = ? WHERE key = 'next_id'`, c.NextID); err != nil {
		return fmt.Errorf("write next id: %w", err)
	}
	return nil
}

func put(tx *db.Tx, r *route.Route) error {
	s := r.Spec
	check, err := json.Marshal(s.Check)
	if err != nil {
		return err
	}
	timeouts, err := json.Marshal(s.Timeouts)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO route(id, listener, hostname, alpn, mode, proto, tls_cert, tls_key, backend_tls, backend_name, proxy_out, proxy_key,
			health_check, timeouts, hsts, owner, lease_ttl, created_by, revision, last_op) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
		ON CONFLICT(id) DO UPDATE SET listener=excluded.listener, hostname=excluded.hostname, alpn=excluded.alpn, mode=excluded.mode, proto=excluded.proto,
			tls_cert=excluded.tls_cert, tls_key=excluded.tls_key, backend_tls=excluded.backend_tls, backend_name=excluded.backend_name,
			proxy_out=excluded.proxy_out, proxy_key=excluded.proxy_key, health_check=excluded.health_check, timeouts=excluded.timeouts,
			hsts=excluded.hsts, owner=excluded.owner, lease_ttl=excluded.lease_ttl, revision=excluded.revision, last_op=excluded.last_op`,
		r.ID, s.Listener, s.Hostname, s.ALPN, string(s.Mode), string(s.Proto), s.TLSCert, s.TLSKey, s.BackendTLS, s.BackendName, string(s.ProxyOut), s.ProxyKey,
		string(check), string(timeouts), int64(s.HSTS), s.Owner, int64(s.LeaseTTL), r.CreatedBy, r.Revision, r.LastOp); err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM backend WHERE route_id = ?`, r.ID); err != nil {
		return err
	}
	for _, b := range s.Backends {
		if _, err := tx.Exec(`INSERT INTO backend(route_id, addr, weight, state, drain_until) VALUES(?,?,?,'active',0)`, r.ID, b.Addr, b.Weight); err != nil {
			return err
		}
	}
	for _, d := range r.Draining {
		if _, err := tx.Exec(`INSERT INTO backend(route_id, addr, weight, state, drain_until) VALUES(?,?,0,'draining',?)`, r.ID, d.Addr, toUnix(d.Until)); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`DELETE FROM hold WHERE route_id = ?`, r.ID); err != nil {
		return err
	}
	if h := r.Hold; h != nil {
		if _, err := tx.Exec(`INSERT INTO hold(route_id, op, held_by, until, max_wait, max_queued) VALUES(?,?,?,?,?,?)`,
			r.ID, h.Op, h.By, toUnix(h.Until), int64(h.MaxWait), h.MaxQueued); err != nil {
			return err
		}
	}
	return nil
}

// AuditRow is one administrative call.
type AuditRow struct {
	At      time.Time
	UID     int64
	User    string
	Method  string
	Target  string
	Outcome string
}

// Audit adds a row and lets the oldest go.
func Audit(ctx context.Context, d *db.DB, a AuditRow) error {
	return d.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`INSERT INTO audit(at, uid, user, method, target, outcome) VALUES(?,?,?,?,?,?)`,
			a.At.UnixNano(), a.UID, a.User, a.Method, a.Target, a.Outcome); err != nil {
			return fmt.Errorf("write audit: %w", err)
		}
		_, err := tx.Exec(`DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?`, auditKeep)
		return err
	})
}
