package service

import (
	"context"
	"path/filepath"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcr/internal/gc"
	"metacircular.net/mcr/internal/store"
	"metacircular.net/mcr/internal/verify"
)

// onRestore makes restored data safe to start with: event cursors of before mean nothing any more, open
// uploads are gone, nothing is swept for a grace, since files that the snapshot does not know may still be
// needed, and the first thing the server does is to look for blobs that are not there.
func onRestore(ctx context.Context, dir string) error {
	d, err := db.Open(ctx, db.Config{Path: filepath.Join(dir, "mcr.db"), Service: "mcr", Migrations: store.Migrations(), MustExist: true,
		Lock: db.LockFromFile(nil)}) // whoever restores holds the folder's lock
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return store.ForgetLife(ctx, d, gc.DeferKey, verify.DueKey)
}
