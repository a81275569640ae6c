// Package vault keeps MCIAS's master key: sealed, nobody can sign in and no token is minted; unsealed, the private
// columns of the database open. Slots (password, recovery code, credential file) are mcdsl/keyslot's.
//
// Sealed is not down: public keys, the Watch stream, revocations, audit and administration work without the key.
// An explicit [Vault.Seal] holds across restarts until somebody types a secret; a credential alone does not end it.
package vault

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"sync"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"

	"metacircular.net/mcias/internal/store"
)

// States.
const (
	Sealed   = "sealed"
	Unsealed = "unsealed"
)

// Listener is told when the vault opens and closes. Opened may refuse: then the vault stays sealed.
type Listener interface {
	Opened(ctx context.Context, c *Cipher) error
	Closed()
}

// Vault is the seal. Safe for concurrent use.
type Vault struct {
	db    *db.DB
	slots *keyslot.Slots
	// exclusive runs fn while no password hash runs, because a password slot needs all the memory.
	exclusive func(ctx context.Context, fn func()) error
	listeners []Listener

	mu     sync.RWMutex // guards master and cipher
	master *keyslot.Master
	cipher *Cipher
}

// New returns a sealed vault.
func New(d *db.DB, slots *keyslot.Slots, exclusive func(context.Context, func()) error) *Vault {
	return &Vault{db: d, slots: slots, exclusive: exclusive}
}

// Listen adds a listener; call it before the first unseal.
func (v *Vault) Listen(l Listener) { v.listeners = append(v.listeners, l) }

// State returns sealed or unsealed.
func (v *Vault) State() string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.cipher == nil {
		return Sealed
	}
	return Unsealed
}

// Open reports whether the vault is unsealed.
func (v *Vault) Open() bool { return v.State() == Unsealed }

// Held reports whether somebody sealed it by hand.
func (v *Vault) Held(ctx context.Context) (held bool, err error) {
	err = v.db.Read(ctx, func(r *db.View) error {
		s, err := store.Meta(r, store.MetaHeld)
		held = s == "1"
		return err
	})
	return held, err
}

// Cipher returns the cipher, or the SEALED fault.
func (v *Vault) Cipher() (*Cipher, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.cipher == nil {
		return nil, ErrSealed()
	}
	return v.cipher, nil
}

// ErrSealed is the refusal of everything that needs the key.
func ErrSealed() error {
	return fault.New(fault.Unavailable, "MCIAS is sealed").WithReason("SEALED").WithNext("mcias unseal")
}

// Unseal opens the vault with a secret. Opening an open vault proves the secret and changes nothing.
func (v *Vault) Unseal(ctx context.Context, sec keyslot.Secret, from keyslot.Origin) error {
	m, err := v.prove(ctx, sec, from)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cipher != nil {
		m.Close()
		return nil
	}
	c, err := newCipher(m)
	if err != nil {
		m.Close()
		return err
	}
	for i, l := range v.listeners {
		if err := l.Opened(ctx, c); err != nil {
			for _, k := range v.listeners[:i] {
				k.Closed()
			}
			m.Close()
			return err
		}
	}
	if sec.Kind.Interactive() {
		err := v.db.Write(ctx, func(tx *db.Tx) error { return store.SetMeta(tx, store.MetaHeld, "0") })
		if err != nil {
			for _, l := range v.listeners {
				l.Closed()
			}
			m.Close()
			return err
		}
	}
	v.master, v.cipher = m, c
	return nil
}

// prove returns the master key for a right secret.
func (v *Vault) prove(ctx context.Context, sec keyslot.Secret, from keyslot.Origin) (m *keyslot.Master, err error) {
	run := func() { m, _, err = v.slots.Unlock(ctx, sec, from) }
	if sec.Kind != keyslot.Password || v.exclusive == nil {
		run()
		return m, err
	}
	if xerr := v.exclusive(ctx, run); xerr != nil {
		return nil, xerr
	}
	return m, err
}

// Seal wipes the keys; held says that a person asked for it, which lasts until a person unseals. The note is written
// first, by the caller, in the transaction of its audit record.
func (v *Vault) Seal() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cipher == nil {
		return
	}
	for _, l := range v.listeners {
		l.Closed()
	}
	v.master.Close()
	v.master, v.cipher = nil, nil
}

// Slots lists the slots.
func (v *Vault) Slots(ctx context.Context) ([]keyslot.Row, error) { return v.slots.List(ctx) }

// AddSlot adds a slot, with the proof of an existing one.
func (v *Vault) AddSlot(ctx context.Context, proof, sec keyslot.Secret, from keyslot.Origin) (keyslot.Row, keyslot.Made, error) {
	m, err := v.prove(ctx, proof, from)
	if err != nil {
		return keyslot.Row{}, keyslot.Made{}, err
	}
	defer m.Close()
	return v.slots.Add(ctx, m, sec)
}

// RemoveSlot removes a slot, with the proof of an existing one.
func (v *Vault) RemoveSlot(ctx context.Context, proof keyslot.Secret, id string, from keyslot.Origin) error {
	m, err := v.prove(ctx, proof, from)
	if err != nil {
		return err
	}
	m.Close()
	return v.slots.Remove(ctx, id)
}

// Cipher encrypts columns: AES-256-GCM with a random nonce, bound to table, column and row, so that a value moved to
// another row does not open. Safe for concurrent use.
type Cipher struct {
	aead cipher.AEAD
	mac  []byte
}

// NewCipher returns the cipher of a master key that was just made.
func NewCipher(m *keyslot.Master) (*Cipher, error) { return newCipher(m) }

func newCipher(m *keyslot.Master) (*Cipher, error) {
	key, err := m.Derive("mcias columns", 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	mac, err := m.Derive("mcias throttle", 32)
	return &Cipher{aead: aead, mac: mac}, err
}

// MAC is the key under which submitted names are counted.
func (c *Cipher) MAC() []byte { return c.mac }

// Seal encrypts a value of a column.
func (c *Cipher) Seal(table, column, row string, plain []byte) []byte {
	nonce := make([]byte, c.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return c.aead.Seal(nonce, nonce, plain, place(table, column, row))
}

// Open decrypts it.
func (c *Cipher) Open(table, column, row string, sealed []byte) ([]byte, error) {
	n := c.aead.NonceSize()
	if len(sealed) < n {
		return nil, fmt.Errorf("%s.%s of %q is damaged", table, column, row)
	}
	plain, err := c.aead.Open(nil, sealed[:n], sealed[n:], place(table, column, row))
	if err != nil {
		return nil, fmt.Errorf("%s.%s of %q does not open", table, column, row)
	}
	return plain, nil
}

func place(parts ...string) []byte {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

// NewCredential returns a random credential as text, for a 0600 file.
func NewCredential() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return base64.StdEncoding.EncodeToString(b)
}
