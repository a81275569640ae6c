package server

import (
	"context"
	"time"

	"metacircular.net/mcdsl/db"

	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/store"
)

// restoredLife is how long the bound of a restore lives: longer than any token a configuration allows.
const restoredLife = 25 * time.Hour

func killRestored(ctx context.Context, d *db.DB) error {
	now := time.Now()
	stream := opaque.ID()
	return d.Write(ctx, func(tx *db.Tx) error {
		if err := store.SetMeta(tx, store.MetaStreamID, stream); err != nil {
			return err
		}
		if err := store.EndEverything(tx, now); err != nil {
			return err
		}
		k := revoke.Killer{Life: restoredLife, Session: restoredLife}
		if _, err := k.Kill(tx, now, revoke.Row{Kind: revoke.All, Value: "restore", Bound: now.Unix()}); err != nil {
			return err
		}
		return audit.Append(tx, now, audit.By{Name: "local:restore"}.Record("restore", "mcias", "stream_id", stream))
	})
}
