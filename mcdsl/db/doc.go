// Package db is SQLite with the decisions made: one writer, several readers that cannot write, durable
// commits, embedded forward-only migrations.
//
//	d, err := db.Open(ctx, db.Config{Path: "srv/mcns/mcns.db", Service: "mcns", Migrations: migrations})
//	err = d.Write(ctx, func(tx *db.Tx) error {
//		_, err := tx.Exec(`INSERT INTO zone(id, name) VALUES (?, ?)`, id, name)
//		return err
//	})
//	err = d.Read(ctx, func(v *db.View) error { return v.QueryRow(`SELECT count(*) FROM zone`).Scan(&n) })
//
// When Write has returned nil the change is on disk. Writers that arrive together share one commit, each
// in a savepoint of its own: one that fails takes back only its own work. The function may run a second
// time (after an automatic rollback caused by a neighbour), so it has no effect outside tx; results are
// assigned, not appended. It makes no network call and does not call Write: that is an error at once.
//
// After an error that makes SQLite roll the whole transaction back (disk full, I/O, interruption) the
// Tx refuses every further statement and Write returns that first error.
//
// DB is safe for concurrent use; Tx and View belong to the function they are given to.
package db
