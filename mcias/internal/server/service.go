package server

import (
	"context"
	"path/filepath"

	"metacircular.net/mcdsl/cli"
	"metacircular.net/mcdsl/db"

	"metacircular.net/mcias/internal/store"
)

// Service says what the binary is, without its commands.
func Service() cli.Service[Config] {
	return cli.Service[Config]{
		Name:       "mcias",
		Short:      "Identity for the platform: accounts, sign-in, policy, tokens",
		Rules:      Rules(),
		Build:      Build,
		Migrations: store.Migrations(),
		OnRestore:  OnRestore,
	}
}

// OnRestore kills the authority that came back with old data: a fresh stream, everything issued before now dead, all
// sessions, codes, refresh tokens and links ended. Accounts, keys and roles that may have returned are for the
// operator to look at. It may run twice.
func OnRestore(ctx context.Context, dir string) error {
	d, err := db.Open(ctx, db.Config{Path: filepath.Join(dir, "mcias.db"), Service: "mcias", Migrations: store.Migrations(), MustExist: true})
	if err != nil {
		return err
	}
	err = killRestored(ctx, d)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
