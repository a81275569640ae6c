package store

import (
	"errors"
	"fmt"

	"metacircular.net/mcdsl/db"
)

// Mount is a row of mounts.
type Mount struct {
	ID         []byte // 16 random bytes, permanent
	Type, Name string
}

// Mounts returns all mounts by name.
func Mounts(q db.Queryer) ([]Mount, error) {
	rows, err := q.Query(`SELECT id, type, name FROM mounts ORDER BY name LIMIT 65`)
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []Mount
	for rows.Next() {
		var m Mount
		if err := rows.Scan(&m.ID, &m.Type, &m.Name); err != nil {
			return nil, fmt.Errorf("read mounts: %w", err)
		}
		out = append(out, m)
	}
	return out, rows.Err()
}

// MountByName returns a mount, db.ErrNoRows (wrapped) if there is none.
func MountByName(q db.Queryer, name string) (Mount, error) {
	m := Mount{Name: name}
	if err := q.QueryRow(`SELECT id, type FROM mounts WHERE name = ?`, name).Scan(&m.ID, &m.Type); err != nil {
		return m, fmt.Errorf("read mount: %w", err)
	}
	return m, nil
}

// PutMount inserts a mount.
func PutMount(tx *db.Tx, m Mount) error {
	_, err := tx.Exec(`INSERT INTO mounts(id, type, name) VALUES (?, ?, ?)`, m.ID, m.Type, m.Name)
	return err
}

// Key is a row of keys.
type Key struct {
	ID           []byte // 8 random bytes
	MountID      []byte
	Purpose      string // data, path or mac
	Version      int64
	Wrapped      []byte
	State        string // active or old
	UsesReserved int64
}

// Keys returns all keys.
func Keys(q db.Queryer) ([]Key, error) {
	rows, err := q.Query(`SELECT id, mount_id, purpose, version, wrapped, state, uses_reserved FROM keys ORDER BY mount_id, purpose, version`)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []Key
	for rows.Next() {
		var k Key
		if err := rows.Scan(&k.ID, &k.MountID, &k.Purpose, &k.Version, &k.Wrapped, &k.State, &k.UsesReserved); err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		out = append(out, k)
	}
	return out, rows.Err()
}

// PutKey inserts a key, or replaces its wrapping and state.
func PutKey(tx *db.Tx, k Key) error {
	_, err := tx.Exec(`INSERT INTO keys(id, mount_id, purpose, version, wrapped, state) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT(id) DO UPDATE SET wrapped = excluded.wrapped, state = excluded.state`, k.ID, k.MountID, k.Purpose, k.Version, k.Wrapped, k.State)
	return err
}

// ReserveUses notes that a key may have been used so often.
func ReserveUses(tx *db.Tx, id []byte, uses int64) error {
	_, err := tx.Exec(`UPDATE keys SET uses_reserved = max(uses_reserved, ?) WHERE id = ?`, uses, id)
	return err
}

// Entry is a row of entries.
type Entry struct {
	PathHash []byte
	Rev      int64
	KeyID    []byte
	Tag      []byte
	PathCT   []byte
	CT       []byte
}

// GetEntry returns an entry, or false.
func GetEntry(q db.Queryer, mountID, pathHash []byte) (Entry, bool, error) {
	e := Entry{PathHash: pathHash}
	err := q.QueryRow(`SELECT rev, key_id, tag, path_ct, ct FROM entries WHERE mount_id = ? AND path_hash = ?`, mountID, pathHash).
		Scan(&e.Rev, &e.KeyID, &e.Tag, &e.PathCT, &e.CT)
	if errors.Is(err, db.ErrNoRows) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("read entry: %w", err)
	}
	return e, true, nil
}

// ScanEntries calls f for each entry of a mount, without its value.
func ScanEntries(q db.Queryer, mountID []byte, f func(Entry) error) error {
	rows, err := q.Query(`SELECT path_hash, rev, key_id, tag, path_ct FROM entries WHERE mount_id = ?`, mountID)
	if err != nil {
		return fmt.Errorf("scan entries: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var e Entry
		if err := rows.Scan(&e.PathHash, &e.Rev, &e.KeyID, &e.Tag, &e.PathCT); err != nil {
			return fmt.Errorf("scan entries: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	return rows.Err()
}

// PutEntry inserts or replaces an entry.
func PutEntry(tx *db.Tx, mountID []byte, e Entry) error {
	_, err := tx.Exec(`INSERT INTO entries(mount_id, path_hash, rev, key_id, tag, path_ct, ct) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT(mount_id, path_hash) DO UPDATE SET rev = excluded.rev, key_id = excluded.key_id, tag = excluded.tag,
		path_ct = excluded.path_ct, ct = excluded.ct`, mountID, e.PathHash, e.Rev, e.KeyID, e.Tag, e.PathCT, e.CT)
	return err
}

// DeleteEntry deletes an entry.
func DeleteEntry(tx *db.Tx, mountID, pathHash []byte) error {
	_, err := tx.Exec(`DELETE FROM entries WHERE mount_id = ? AND path_hash = ?`, mountID, pathHash)
	return err
}

// Root returns the encrypted integrity root, nil if there is none.
func Root(q db.Queryer) ([]byte, error) {
	var ct []byte
	err := q.QueryRow(`SELECT ct FROM integrity_root WHERE id = 1`).Scan(&ct)
	if errors.Is(err, db.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read integrity root: %w", err)
	}
	return ct, nil
}

// PutRoot replaces the encrypted integrity root.
func PutRoot(tx *db.Tx, ct []byte) error {
	_, err := tx.Exec(`INSERT INTO integrity_root(id, ct) VALUES (1, ?) ON CONFLICT(id) DO UPDATE SET ct = excluded.ct`, ct)
	return err
}
