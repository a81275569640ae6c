package keyslot

import (
	"context"
	"encoding/binary"
	"time"
)

// Kind says what opens a slot.
type Kind string

// The kinds. Password and Recovery are interactive: a person types them.
const (
	Password   Kind = "password"
	Recovery   Kind = "recovery"
	Credential Kind = "credential"
)

// Interactive reports whether a person can use the slot without a file on the machine.
func (k Kind) Interactive() bool { return k == Password || k == Recovery }

// valid reports whether the kind is known.
func (k Kind) valid() bool { return k == Password || k == Recovery || k == Credential }

// Row is a slot as stored. It holds no secret in clear. LastUsedAt is outside what is authenticated.
type Row struct {
	ID          string
	Kind        Kind
	Params      Params
	Pub         []byte // 1216 bytes
	WrappedPriv []byte // nonce, then the 32-byte seed under the KEK
	SealedMEK   []byte // 1168 bytes
	CreatedAt   time.Time
	LastUsedAt  time.Time
}

// Attempts is the durable count of one lane.
type Attempts struct {
	Count  uint32    // wrong ones since the last right one
	NextAt time.Time // no attempt before then
}

// Store keeps rows and counters. Each method is one durable transaction.
type Store interface {
	// Slots returns all rows, oldest first.
	Slots(ctx context.Context) ([]Row, error)
	// SaveSlots inserts or replaces put and deletes the rows with the ids in remove, all or nothing.
	SaveSlots(ctx context.Context, put []Row, remove []string) error
	// UpdateAttempts reads the counter of a lane (zero if absent), calls f and stores what it returns. An error of f
	// stores nothing and is returned. f may run twice.
	UpdateAttempts(ctx context.Context, lane string, f func(Attempts) (Attempts, error)) error
}

// Digestible returns the canonical encoding of all of a row but LastUsedAt, for whoever keeps a digest of live slots.
func (r Row) Digestible() []byte {
	return canonical([]byte("slot-row"), r.aad(), r.Pub, r.WrappedPriv, r.SealedMEK)
}

// aad is what binds id, kind and costs into both layers of the slot.
func (r Row) aad() []byte {
	return canonical([]byte("slot"), []byte(r.ID), []byte(r.Kind), r.Params.Encode())
}

// canonical joins fields, each preceded by its length, so that no two lists of fields give the same bytes.
func canonical(fields ...[]byte) []byte {
	var out []byte
	for _, f := range fields {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f))) //nolint:gosec // fields are a few KiB
		out = append(out, f...)
	}
	return out
}
