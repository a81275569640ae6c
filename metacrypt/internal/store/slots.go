package store

import (
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/keyslot"
)

// Slots returns the key slots, oldest first.
func Slots(q db.Queryer) ([]keyslot.Row, error) {
	rows, err := q.Query(`SELECT id, kind, params, pub, wrapped_priv, sealed_mek, created_at, last_used_at FROM key_slots ORDER BY created_at, id LIMIT 64`)
	if err != nil {
		return nil, fmt.Errorf("read slots: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []keyslot.Row
	for rows.Next() {
		var r keyslot.Row
		var kind string
		var params []byte
		var created, used int64
		if err := rows.Scan(&r.ID, &kind, &params, &r.Pub, &r.WrappedPriv, &r.SealedMEK, &created, &used); err != nil {
			return nil, fmt.Errorf("read slots: %w", err)
		}
		if r.Params, err = keyslot.DecodeParams(params); err != nil {
			return nil, fmt.Errorf("slot %s: %w", r.ID, err)
		}
		r.Kind, r.CreatedAt = keyslot.Kind(kind), time.UnixMilli(created).UTC()
		if used > 0 {
			r.LastUsedAt = time.UnixMilli(used).UTC()
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// PutSlot inserts or replaces a slot.
func PutSlot(tx *db.Tx, r keyslot.Row) error {
	_, err := tx.Exec(`INSERT INTO key_slots(id, kind, params, pub, wrapped_priv, sealed_mek, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT(id) DO UPDATE SET kind = excluded.kind, params = excluded.params, pub = excluded.pub,
		wrapped_priv = excluded.wrapped_priv, sealed_mek = excluded.sealed_mek`,
		r.ID, string(r.Kind), r.Params.Encode(), r.Pub, r.WrappedPriv, r.SealedMEK, r.CreatedAt.UnixMilli())
	return err
}

// DeleteSlot deletes a slot.
func DeleteSlot(tx *db.Tx, id string) error {
	_, err := tx.Exec(`DELETE FROM key_slots WHERE id = ?`, id)
	return err
}

// TouchSlot notes when a slot was last used.
func TouchSlot(tx *db.Tx, id string, now time.Time) error {
	_, err := tx.Exec(`UPDATE key_slots SET last_used_at = ? WHERE id = ?`, now.UnixMilli(), id)
	return err
}
