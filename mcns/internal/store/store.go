// Package store holds the SQL of MCNS: one function per query, no decisions.
package store

import (
	"embed"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"

	"metacircular.net/mcns/internal/zone"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema.
func Migrations() embed.FS { return migrations }

// timeFormat keeps milliseconds, in UTC, sortable.
const timeFormat = "2006-01-02T15:04:05.000Z"

func format(t time.Time) string { return t.UTC().Format(timeFormat) }

func parse(s string) time.Time {
	t, err := time.Parse(timeFormat, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// Zones reads all zones with their records.
func Zones(q db.Queryer) ([]*zone.Zone, error) {
	rows, err := q.Query(`SELECT id, name, mname, rname, refresh, retry, expire, minimum, default_ttl, serial, changed_at FROM zone ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("read zones: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []*zone.Zone
	byID := map[int64]*zone.Zone{}
	for rows.Next() {
		z := &zone.Zone{}
		var changed string
		if err := rows.Scan(&z.ID, &z.Name, &z.MName, &z.RName, &z.Refresh, &z.Retry, &z.Expire, &z.Minimum, &z.DefaultTTL, &z.Serial, &changed); err != nil {
			return nil, fmt.Errorf("read zones: %w", err)
		}
		z.Changed = parse(changed)
		out, byID[z.ID] = append(out, z), z
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read zones: %w", err)
	}
	return out, records(q, byID)
}

func records(q db.Queryer, byID map[int64]*zone.Zone) error {
	rows, err := q.Query(`SELECT s.zone, d.id, s.name, s.type, s.ttl, d.text, d.owner, d.note, d.changed_at
		FROM rdata d JOIN rrset s ON s.id = d.rrset ORDER BY s.zone, d.id`)
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id int64
		var r zone.Record
		var changed string
		if err := rows.Scan(&id, &r.ID, &r.Name, &r.Type, &r.TTL, &r.Text, &r.Owner, &r.Note, &changed); err != nil {
			return fmt.Errorf("read records: %w", err)
		}
		r.Changed = parse(changed)
		if z := byID[id]; z != nil {
			z.Records = append(z.Records, r)
		}
	}
	return rows.Err()
}

// PutZone inserts a zone (ID 0) or writes its SOA values, and returns its id.
func PutZone(tx *db.Tx, z *zone.Zone) (int64, error) {
	if z.ID == 0 {
		r, err := tx.Exec(`INSERT INTO zone(name, mname, rname, refresh, retry, expire, minimum, default_ttl, serial, changed_at) VALUES (?,?,?,?,?,?,?,?,?,?)`,
			z.Name, z.MName, z.RName, z.Refresh, z.Retry, z.Expire, z.Minimum, z.DefaultTTL, z.Serial, format(z.Changed))
		if err != nil {
			return 0, fmt.Errorf("write zone: %w", err)
		}
		return r.LastInsertId()
	}
	_, err := tx.Exec(`UPDATE zone SET mname=?, rname=?, refresh=?, retry=?, expire=?, minimum=?, default_ttl=?, serial=?, changed_at=? WHERE id=?`,
		z.MName, z.RName, z.Refresh, z.Retry, z.Expire, z.Minimum, z.DefaultTTL, z.Serial, format(z.Changed), z.ID)
	if err != nil {
		return 0, fmt.Errorf("write zone: %w", err)
	}
	return z.ID, nil
}

// DeleteZone removes a zone with its records.
func DeleteZone(tx *db.Tx, id int64) error {
	if _, err := tx.Exec(`DELETE FROM zone WHERE id=?`, id); err != nil {
		return fmt.Errorf("delete zone: %w", err)
	}
	return nil
}

// PutRecord inserts a record (ID 0) or rewrites one, sets the set's TTL, and returns the record's id.
func PutRecord(tx *db.Tx, zoneID int64, r zone.Record) (int64, error) {
	var set int64
	err := tx.QueryRow(`INSERT INTO rrset(zone, name, type, ttl) VALUES (?,?,?,?)
		ON CONFLICT (zone, name, type) DO UPDATE SET ttl=excluded.ttl RETURNING id`, zoneID, r.Name, r.Type, r.TTL).Scan(&set)
	if err != nil {
		return 0, fmt.Errorf("write record set: %w", err)
	}
	if r.ID == 0 {
		var id int64
		err = tx.QueryRow(`INSERT INTO rdata(rrset, text, owner, note, changed_at) VALUES (?,?,?,?,?) RETURNING id`,
			set, r.Text, r.Owner, r.Note, format(r.Changed)).Scan(&id)
		if err != nil {
			return 0, fmt.Errorf("write record: %w", err)
		}
		return id, nil
	}
	if _, err := tx.Exec(`INSERT INTO rdata(id, rrset, text, owner, note, changed_at) VALUES (?,?,?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET rrset=excluded.rrset, text=excluded.text, owner=excluded.owner, note=excluded.note, changed_at=excluded.changed_at`,
		r.ID, set, r.Text, r.Owner, r.Note, format(r.Changed)); err != nil {
		return 0, fmt.Errorf("write record: %w", err)
	}
	return r.ID, nil
}

// DeleteRecord removes a record, and its set if that is empty then.
func DeleteRecord(tx *db.Tx, id int64) error {
	var set int64
	if err := tx.QueryRow(`DELETE FROM rdata WHERE id=? RETURNING rrset`, id).Scan(&set); err != nil {
		return fmt.Errorf("delete record: %w", err)
	}
	if _, err := tx.Exec(`DELETE FROM rrset WHERE id=? AND NOT EXISTS (SELECT 1 FROM rdata WHERE rrset=?)`, set, set); err != nil {
		return fmt.Errorf("delete record set: %w", err)
	}
	return nil
}

// Registration is one owner's set as it is kept.
type Registration struct {
	Zone, Owner, OnExpiry, Body string
	Epoch, Generation           uint64
	Lease                       time.Duration
}

// Registrations reads all sets.
func Registrations(q db.Queryer) ([]Registration, error) {
	rows, err := q.Query(`SELECT zone, owner, epoch, generation, lease, on_expiry, body FROM registration ORDER BY zone, owner`)
	if err != nil {
		return nil, fmt.Errorf("read registrations: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []Registration
	for rows.Next() {
		var r Registration
		var epoch, generation, lease int64
		if err := rows.Scan(&r.Zone, &r.Owner, &epoch, &generation, &lease, &r.OnExpiry, &r.Body); err != nil {
			return nil, fmt.Errorf("read registrations: %w", err)
		}
		r.Epoch, r.Generation, r.Lease = uint64(epoch), uint64(generation), time.Duration(lease)*time.Second //nolint:gosec // written from uint64
		out = append(out, r)
	}
	return out, rows.Err()
}

// PutRegistration writes one owner's set.
func PutRegistration(tx *db.Tx, r Registration) error {
	_, err := tx.Exec(`INSERT INTO registration(zone, owner, epoch, generation, lease, on_expiry, body) VALUES (?,?,?,?,?,?,?)
		ON CONFLICT (zone, owner) DO UPDATE SET epoch=excluded.epoch, generation=excluded.generation, lease=excluded.lease,
			on_expiry=excluded.on_expiry, body=excluded.body`,
		r.Zone, r.Owner, int64(r.Epoch), int64(r.Generation), int64(r.Lease/time.Second), r.OnExpiry, r.Body) //nolint:gosec // bits are kept
	if err != nil {
		return fmt.Errorf("write registration: %w", err)
	}
	return nil
}

// DeleteRegistration removes one owner's set.
func DeleteRegistration(tx *db.Tx, zoneName, owner string) error {
	if _, err := tx.Exec(`DELETE FROM registration WHERE zone=? AND owner=?`, zoneName, owner); err != nil {
		return fmt.Errorf("delete registration: %w", err)
	}
	return nil
}
