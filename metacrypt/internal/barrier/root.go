package barrier

import (
	"crypto/cipher"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/metacrypt/internal/store"
)

// sum is a MAC or digest; in JSON it is hex.
type sum [32]byte

// MarshalText returns hex.
func (s sum) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(s[:])), nil }

// UnmarshalText reads hex.
func (s *sum) UnmarshalText(b []byte) error {
	if len(b) != 64 {
		return fmt.Errorf("a sum has 64 digits")
	}
	_, err := hex.Decode(s[:], b)
	return err
}

func (s *sum) xor(o [32]byte) { subtle.XORBytes(s[:], s[:], o[:]) }

// total is a mount's accumulator and number of rows.
type total struct {
	Acc  sum   `json:"acc"`
	Rows int64 `json:"rows"`
}

// rootRow is the content of the integrity root. Keys of the maps are hex ids.
type rootRow struct {
	Generation uint64            `json:"generation"`
	Totals     map[string]*total `json:"totals"`
	Mounts     map[string]sum    `json:"mounts"`
	Keys       map[string]sum    `json:"keys"`
	Slots      map[string]sum    `json:"slots"`
}

func newRoot() *rootRow {
	return &rootRow{Totals: map[string]*total{}, Mounts: map[string]sum{}, Keys: map[string]sum{}, Slots: map[string]sum{}}
}

func (r *rootRow) addMount(m store.Mount) {
	id := hex.EncodeToString(m.ID)
	r.Mounts[id], r.Totals[id] = mountDigest(m), &total{}
}

func (r *rootRow) addKey(k store.Key) { r.Keys[hex.EncodeToString(k.ID)] = keyDigest(k) }

func (r *rootRow) addSlot(s keyslot.Row) { r.Slots[s.ID] = sha256.Sum256(s.Digestible()) }

// save encrypts and stores the root.
func (r *rootRow) save(tx *db.Tx, aead cipher.AEAD) error {
	r.Generation++
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode integrity root: %w", err)
	}
	return store.PutRoot(tx, aead.Seal(nil, nil, b, []byte(labelRoot)))
}

// loadRoot reads and decrypts the root.
func loadRoot(q db.Queryer, aead cipher.AEAD) (*rootRow, error) {
	ct, err := store.Root(q)
	if err != nil {
		return nil, err
	}
	if ct == nil {
		return nil, Integrity("the integrity root is gone")
	}
	b, err := aead.Open(nil, nil, ct, []byte(labelRoot))
	if err != nil {
		return nil, Integrity("the integrity root was changed")
	}
	r := newRoot()
	if err := json.Unmarshal(b, r); err != nil {
		return nil, Integrity("the integrity root cannot be read").Wrap(err)
	}
	return r, nil
}

// checkSlots compares live slots with their digests.
func (r *rootRow) checkSlots(rows []keyslot.Row) error {
	for _, s := range rows {
		want, ok := r.Slots[s.ID]
		if !ok {
			return Integrity("slot %s (%s) was put in by somebody else", s.ID, s.Kind)
		}
		if want != sha256.Sum256(s.Digestible()) {
			return Integrity("slot %s (%s) was changed", s.ID, s.Kind)
		}
	}
	if len(rows) != len(r.Slots) {
		return Integrity("%d of %d slots are gone", len(r.Slots)-len(rows), len(r.Slots))
	}
	return nil
}
