// Package store is the master's database: which nodes there are, and which service was placed where.
package store

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Store is the database. Safe for concurrent use.
type Store struct{ db *db.DB }

// New returns the store in an open database.
func New(d *db.DB) *Store { return &Store{db: d} }

// Node is a machine of the platform.
type Node struct {
	Name     string
	State    string // ready or removed
	Cordoned bool
	CertFP   string
	Joined   time.Time
	LastSeen time.Time
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func parse(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}

// AddNode makes the row of a node; created is false when there was one.
func (s *Store) AddNode(ctx context.Context, name string, now time.Time) (created bool, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`INSERT INTO node(name, state, joined) VALUES (?, 'ready', ?) ON CONFLICT(name) DO NOTHING`, name, stamp(now))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		created = n == 1
		return err
	})
	return created, err
}

const nodeColumns = `name, state, cordoned, cert_fp, joined, last_seen`

func scanNode(scan func(...any) error) (n Node, err error) {
	var joined, seen string
	err = scan(&n.Name, &n.State, &n.Cordoned, &n.CertFP, &joined, &seen)
	n.Joined, n.LastSeen = parse(joined), parse(seen)
	return n, err
}

// Node returns one.
func (s *Store) Node(ctx context.Context, name string) (n Node, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		n, err = scanNode(v.QueryRow(`SELECT `+nodeColumns+` FROM node WHERE name = ?`, name).Scan)
		return err
	})
	if errors.Is(err, db.ErrNoRows) {
		return Node{}, fault.New(fault.NotFound, "there is no node %q", name).WithNext("mcp node list")
	}
	return n, err
}

// Nodes returns all, by name. At most some dozens.
func (s *Store) Nodes(ctx context.Context) (out []Node, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out = nil
		rows, err := v.Query(`SELECT ` + nodeColumns + ` FROM node ORDER BY name`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			n, err := scanNode(rows.Scan)
			if err != nil {
				return err
			}
			out = append(out, n)
		}
		return rows.Err()
	})
	return out, err
}

// Seen notes when a node was heard of and which key it showed.
func (s *Store) Seen(ctx context.Context, name, fp string, now time.Time) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE node SET last_seen = ?, cert_fp = ? WHERE name = ?`, stamp(now), fp, name)
		return err
	})
}

// Place remembers where a service goes; a placement that is there stays.
func (s *Store) Place(ctx context.Context, service, node string, now time.Time) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`INSERT INTO placement(service, node, since) VALUES (?, ?, ?) ON CONFLICT(service) DO NOTHING`, service, node, stamp(now))
		return err
	})
}

// Unplace forgets a service.
func (s *Store) Unplace(ctx context.Context, service string) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`DELETE FROM placement WHERE service = ?`, service)
		return err
	})
}

// Placement returns the node of a service; "" = none yet.
func (s *Store) Placement(ctx context.Context, service string) (node string, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		return v.QueryRow(`SELECT node FROM placement WHERE service = ?`, service).Scan(&node)
	})
	if errors.Is(err, db.ErrNoRows) {
		return "", nil
	}
	return node, err
}
