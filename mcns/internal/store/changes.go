package store

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"metacircular.net/mcdsl/db"

	"metacircular.net/mcns/internal/policy"
)

// ChangeSet is one write to one zone.
type ChangeSet struct {
	ID                 int64
	Group              string
	Time               time.Time
	Actor, Source      string
	Reason, Zone       string
	SerialFrom, Serial uint32
	Changes            []Change
}

// Change is one record that came or went.
type Change struct {
	Op    string // "+" or "-"
	Name  string
	Type  uint16
	TTL   uint32
	Text  string
	Owner string
}

// PutChangeSet writes a set with its changes and returns its id.
func PutChangeSet(tx *db.Tx, c ChangeSet) (int64, error) {
	r, err := tx.Exec(`INSERT INTO change_set(group_id, ts, actor, source, reason, zone, serial_from, serial_to) VALUES (?,?,?,?,?,?,?,?)`,
		c.Group, format(c.Time), c.Actor, c.Source, c.Reason, c.Zone, c.SerialFrom, c.Serial)
	if err != nil {
		return 0, fmt.Errorf("write change set: %w", err)
	}
	id, err := r.LastInsertId()
	if err != nil {
		return 0, fmt.Errorf("write change set: %w", err)
	}
	for i, ch := range c.Changes {
		if _, err := tx.Exec(`INSERT INTO change(change_set, seq, op, name, type, ttl, text, owner) VALUES (?,?,?,?,?,?,?,?)`,
			id, i, ch.Op, ch.Name, ch.Type, ch.TTL, ch.Text, ch.Owner); err != nil {
			return 0, fmt.Errorf("write change: %w", err)
		}
	}
	return id, nil
}

const changeSetColumns = `id, group_id, ts, actor, source, reason, zone, serial_from, serial_to`

func scanChangeSet(scan func(...any) error) (ChangeSet, error) {
	var c ChangeSet
	var ts string
	err := scan(&c.ID, &c.Group, &ts, &c.Actor, &c.Source, &c.Reason, &c.Zone, &c.SerialFrom, &c.Serial)
	c.Time = parse(ts)
	return c, err
}

// ChangeSets reads sets before an id (0 = the newest), newest first; zone "" = all.
func ChangeSets(q db.Queryer, zoneName string, before int64, limit int) ([]ChangeSet, error) {
	if before <= 0 {
		before = 1 << 62
	}
	rows, err := q.Query(`SELECT `+changeSetColumns+` FROM change_set WHERE id < ? AND (? = '' OR zone = ?) ORDER BY id DESC LIMIT ?`,
		before, zoneName, zoneName, limit)
	if err != nil {
		return nil, fmt.Errorf("read changes: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []ChangeSet
	for rows.Next() {
		c, err := scanChangeSet(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("read changes: %w", err)
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// ErrNotFound is returned for a row that is not there.
var ErrNotFound = db.ErrNoRows

// GetChangeSet reads one set with its changes.
func GetChangeSet(q db.Queryer, id int64) (ChangeSet, error) {
	c, err := scanChangeSet(q.QueryRow(`SELECT `+changeSetColumns+` FROM change_set WHERE id=?`, id).Scan)
	if err != nil {
		return c, fmt.Errorf("read change %d: %w", id, err)
	}
	rows, err := q.Query(`SELECT op, name, type, ttl, text, owner FROM change WHERE change_set=? ORDER BY seq`, id)
	if err != nil {
		return c, fmt.Errorf("read change %d: %w", id, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var ch Change
		if err := rows.Scan(&ch.Op, &ch.Name, &ch.Type, &ch.TTL, &ch.Text, &ch.Owner); err != nil {
			return c, fmt.Errorf("read change %d: %w", id, err)
		}
		c.Changes = append(c.Changes, ch)
	}
	return c, rows.Err()
}

// Grants reads all grants.
func Grants(q db.Queryer) ([]policy.Grant, error) {
	rows, err := q.Query(`SELECT id, principal, zone, name_glob, types, ops FROM grants ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("read grants: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []policy.Grant
	for rows.Next() {
		var g policy.Grant
		var types, ops string
		if err := rows.Scan(&g.ID, &g.Principal, &g.Zone, &g.Glob, &types, &ops); err != nil {
			return nil, fmt.Errorf("read grants: %w", err)
		}
		g.Types, g.Ops = split(types), split(ops)
		out = append(out, g)
	}
	return out, rows.Err()
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// PutGrant adds a grant, or finds the equal one.
func PutGrant(tx *db.Tx, g policy.Grant) (id int64, created bool, err error) {
	types, ops := strings.Join(g.Types, ","), strings.Join(g.Ops, ",")
	err = tx.QueryRow(`SELECT id FROM grants WHERE principal=? AND zone=? AND name_glob=? AND types=? AND ops=?`, g.Principal, g.Zone, g.Glob, types, ops).Scan(&id)
	if err == nil {
		return id, false, nil
	}
	if !errors.Is(err, db.ErrNoRows) {
		return 0, false, fmt.Errorf("read grant: %w", err)
	}
	r, err := tx.Exec(`INSERT INTO grants(principal, zone, name_glob, types, ops) VALUES (?,?,?,?,?)`, g.Principal, g.Zone, g.Glob, types, ops)
	if err != nil {
		return 0, false, fmt.Errorf("write grant: %w", err)
	}
	id, err = r.LastInsertId()
	return id, true, err
}

// DeleteGrant removes one grant; n is how many there were.
func DeleteGrant(tx *db.Tx, id int64) (n int64, err error) {
	r, err := tx.Exec(`DELETE FROM grants WHERE id=?`, id)
	if err != nil {
		return 0, fmt.Errorf("delete grant: %w", err)
	}
	return r.RowsAffected()
}

// DeleteGrantsOf removes all grants of a principal.
func DeleteGrantsOf(tx *db.Tx, principal string) (n int64, err error) {
	r, err := tx.Exec(`DELETE FROM grants WHERE principal=?`, principal)
	if err != nil {
		return 0, fmt.Errorf("delete grants: %w", err)
	}
	return r.RowsAffected()
}
