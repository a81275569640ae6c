package store

import (
	"context"
	"database/sql"
	"errors"
	"hash/fnv"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// The range a node publishes ports from; each name has a pair, so that two generations can run side by side.
const firstPort, lastPort = 28000, 28999

// Port returns the first port of a name's pair, allocating it at first use: the candidate follows from the names, so a
// rebuilt registry tends to find the same ones, then the next free pair. taken says what somebody else holds.
func (s *Store) Port(ctx context.Context, platform, service, component, name string, taken func(port int) bool) (port int, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		err := tx.QueryRow(`SELECT port FROM port WHERE service = ? AND component = ? AND name = ?`, service, component, name).Scan(&port)
		if err == nil || !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		used := map[int]bool{}
		rows, err := tx.Query(`SELECT port FROM port`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var p int
			if err := rows.Scan(&p); err != nil {
				rows.Close()
				return err
			}
			used[p] = true
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(platform + "\x00" + service + "\x00" + component + "\x00" + name))
		pairs := (lastPort - firstPort + 1) / 2
		for i := range pairs {
			p := firstPort + 2*((int(h.Sum32()%uint32(pairs))+i)%pairs)
			if used[p] || taken(p) || taken(p+1) {
				continue
			}
			port = p
			_, err := tx.Exec(`INSERT INTO port(port, service, component, name) VALUES (?,?,?,?)`, p, service, component, name)
			return err
		}
		return fault.New(fault.Exhausted, "all ports from %d to %d are taken", firstPort, lastPort)
	})
	return port, err
}

// Ports returns the pairs of a service: "component/name" → first port.
func (s *Store) Ports(ctx context.Context, service string) (map[string]int, error) {
	out := map[string]int{}
	err := s.db.Read(ctx, func(v *db.View) error {
		rows, err := v.Query(`SELECT component, name, port FROM port WHERE service = ?`, service)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c, n string
			var p int
			if err := rows.Scan(&c, &n, &p); err != nil {
				return err
			}
			out[c+"/"+n] = p
		}
		return rows.Err()
	})
	return out, err
}
