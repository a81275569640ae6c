package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/keyslot"
)

// Slots is a keyslot.Store on the database.
type Slots struct{ DB *db.DB }

// Slots implements keyslot.Store.
func (s Slots) Slots(ctx context.Context) (out []keyslot.Row, err error) {
	err = s.DB.Read(ctx, func(v *db.View) error {
		out, err = SlotRows(v)
		return err
	})
	return out, err
}

// SlotRows returns all slots, oldest first.
func SlotRows(r Reader) ([]keyslot.Row, error) {
	rows, err := r.Query(`SELECT id, kind, params, pub, wrapped_priv, sealed_mek, created, last_used FROM slot ORDER BY created, id`)
	return collect(rows, err, func(scan func(...any) error) (keyslot.Row, error) {
		var k keyslot.Row
		var params []byte
		var kind string
		var created, used int64
		if err := scan(&k.ID, &kind, &params, &k.Pub, &k.WrappedPriv, &k.SealedMEK, &created, &used); err != nil {
			return k, err
		}
		k.Kind, k.CreatedAt, k.LastUsedAt = keyslot.Kind(kind), at(created), at(used)
		k.Params, err = keyslot.DecodeParams(params)
		return k, err
	})
}

// SaveSlots implements keyslot.Store.
func (s Slots) SaveSlots(ctx context.Context, put []keyslot.Row, remove []string) error {
	return s.DB.Write(ctx, func(tx *db.Tx) error { return PutSlots(tx, put, remove) })
}

// PutSlots stores and removes slots.
func PutSlots(w Writer, put []keyslot.Row, remove []string) error {
	for _, k := range put {
		_, err := w.Exec(`INSERT INTO slot (id, kind, params, pub, wrapped_priv, sealed_mek, created) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, params = excluded.params, pub = excluded.pub,
			wrapped_priv = excluded.wrapped_priv, sealed_mek = excluded.sealed_mek`,
			k.ID, string(k.Kind), k.Params.Encode(), k.Pub, k.WrappedPriv, k.SealedMEK, ms(k.CreatedAt))
		if err != nil {
			return fmt.Errorf("save slot: %w", err)
		}
	}
	for _, id := range remove {
		if _, err := w.Exec(`DELETE FROM slot WHERE id = ?`, id); err != nil {
			return fmt.Errorf("remove slot: %w", err)
		}
	}
	return nil
}

// UpdateAttempts implements keyslot.Store.
func (s Slots) UpdateAttempts(ctx context.Context, lane string, f func(keyslot.Attempts) (keyslot.Attempts, error)) error {
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		var a keyslot.Attempts
		var next int64
		err := tx.QueryRow(`SELECT count, next_at FROM slot_attempts WHERE lane = ?`, lane).Scan(&a.Count, &next)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		a.NextAt = at(next)
		if a, err = f(a); err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO slot_attempts (lane, count, next_at) VALUES (?, ?, ?)
			ON CONFLICT (lane) DO UPDATE SET count = excluded.count, next_at = excluded.next_at`, lane, a.Count, ms(a.NextAt))
		return err
	})
}
