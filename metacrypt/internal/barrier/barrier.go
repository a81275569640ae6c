package barrier

import (
	"context"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/metacrypt/internal/store"
)

// Barrier is an open barrier. It is safe for concurrent use. Whoever holds it while it is closed gets errors, never
// data encrypted with wiped keys; package seal sees to it that nobody does.
type Barrier struct {
	db *db.DB

	// mu: writers share it, rotation of the master key has it alone.
	mu     sync.RWMutex
	master *keyslot.Master
	root   cipher.AEAD
	mounts map[string]*mount // by name
	closed bool

	generation atomic.Uint64 // of the last commit seen
}

// mount is a mount with its keys. Immutable but for the counters in its data keys.
type mount struct {
	store.Mount
	data   map[string]*dataKey // by key id
	active *dataKey
	kPath  []byte
	kMAC   []byte
}

// dataKey is a data key ready for use.
type dataKey struct {
	id       []byte
	aead     cipher.AEAD
	uses     atomic.Int64 // sealed with it, or reserved by an earlier process
	reserved atomic.Int64 // durable
}

// Mount types of the barrier's own.
const (
	TypeSystem = "system" // policy and what belongs to no engine
	System     = "sys"
)

// Init makes mounts, keys and the integrity root for a new store, with its slots, in the caller's transaction.
func Init(tx *db.Tx, master *keyslot.Master, slots []keyslot.Row, mounts []store.Mount) error {
	wrap, rootAEAD, err := derived(master)
	if err != nil {
		return err
	}
	r := newRoot()
	for _, s := range slots {
		if err := store.PutSlot(tx, s); err != nil {
			return err
		}
		r.addSlot(s)
	}
	for _, m := range mounts {
		if err := store.PutMount(tx, m); err != nil {
			return err
		}
		r.addMount(m)
		for _, purpose := range []string{"data", "path", "mac"} {
			k := store.Key{ID: random(8), MountID: m.ID, Purpose: purpose, Version: 1, State: "active"}
			secret := random(keyLen)
			k.Wrapped = wrap.Seal(nil, nil, secret, keyAAD(k))
			clear(secret)
			if err := store.PutKey(tx, k); err != nil {
				return err
			}
			r.addKey(k)
		}
	}
	return r.save(tx, rootAEAD)
}

// NewMount returns a mount with a fresh id.
func NewMount(typ, name string) store.Mount {
	return store.Mount{ID: random(16), Type: typ, Name: name}
}

// derived returns the AEADs that wrap keys and the root.
func derived(master *keyslot.Master) (wrap, root cipher.AEAD, err error) {
	out := make([]cipher.AEAD, 2)
	for i, label := range []string{"metacrypt wrap", "metacrypt root"} {
		k, err := master.Derive(label, keyLen)
		if err != nil {
			return nil, nil, err
		}
		out[i], err = newAEAD(k)
		clear(k)
		if err != nil {
			return nil, nil, err
		}
	}
	return out[0], out[1], nil
}

// Open checks the whole store against the integrity root and returns the barrier. It takes over master, also on error.
func Open(ctx context.Context, d *db.DB, master *keyslot.Master) (*Barrier, error) {
	b := &Barrier{db: d, master: master, mounts: map[string]*mount{}}
	err := d.Read(ctx, func(v *db.View) error {
		wrap, rootAEAD, err := derived(master)
		if err != nil {
			return err
		}
		b.root = rootAEAD
		r, err := loadRoot(v, rootAEAD)
		if err != nil {
			return err
		}
		slots, err := store.Slots(v)
		if err != nil {
			return err
		}
		if err := r.checkSlots(slots); err != nil {
			return err
		}
		if err := b.loadMounts(v, r, wrap); err != nil {
			return err
		}
		b.generation.Store(r.Generation)
		for _, m := range b.mounts {
			if err := m.verify(v, r.Totals[hex.EncodeToString(m.ID)]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// loadMounts unwraps the keys of every mount and compares keys and mounts with their digests.
func (b *Barrier) loadMounts(q db.Queryer, r *rootRow, wrap cipher.AEAD) error {
	mounts, err := store.Mounts(q)
	if err != nil {
		return err
	}
	byID := map[string]*mount{}
	for _, row := range mounts {
		id := hex.EncodeToString(row.ID)
		if want, ok := r.Mounts[id]; !ok || want != mountDigest(row) || r.Totals[id] == nil {
			return Integrity("the row of mount %q was changed or put in", row.Name)
		}
		m := &mount{Mount: row, data: map[string]*dataKey{}}
		byID[id], b.mounts[row.Name] = m, m
	}
	if len(mounts) != len(r.Mounts) {
		return Integrity("a mount is gone")
	}
	keys, err := store.Keys(q)
	if err != nil {
		return err
	}
	if len(keys) != len(r.Keys) {
		return Integrity("there are %d keys instead of %d", len(keys), len(r.Keys))
	}
	for _, k := range keys {
		m := byID[hex.EncodeToString(k.MountID)]
		if m == nil {
			return Integrity("a key belongs to no mount")
		}
		if want, ok := r.Keys[hex.EncodeToString(k.ID)]; !ok || want != keyDigest(k) {
			return Integrity("the %s key of mount %q was changed or put in", k.Purpose, m.Name)
		}
		secret, err := wrap.Open(nil, nil, k.Wrapped, keyAAD(k))
		if err != nil || len(secret) != keyLen {
			return Integrity("the %s key of mount %q cannot be unwrapped", k.Purpose, m.Name)
		}
		if err := m.add(k, secret); err != nil {
			return err
		}
	}
	for _, m := range b.mounts {
		if m.active == nil || m.kPath == nil || m.kMAC == nil {
			return Integrity("mount %q lacks a key", m.Name)
		}
	}
	return nil
}

// add takes over an unwrapped key.
func (m *mount) add(k store.Key, secret []byte) error {
	switch k.Purpose {
	case "path":
		m.kPath = secret
	case "mac":
		m.kMAC = secret
	default:
		aead, err := newAEAD(secret)
		clear(secret)
		if err != nil {
			return err
		}
		dk := &dataKey{id: k.ID, aead: aead}
		dk.uses.Store(k.UsesReserved)
		dk.reserved.Store(k.UsesReserved)
		m.data[string(k.ID)] = dk
		if k.State == "active" {
			m.active = dk
		}
	}
	return nil
}

// verify recomputes a mount's accumulator in one scan.
func (m *mount) verify(q db.Queryer, want *total) error {
	var got total
	err := store.ScanEntries(q, m.ID, func(e store.Entry) error {
		got.Acc.xor(m.rowMAC(e))
		got.Rows++
		return nil
	})
	if err != nil {
		return err
	}
	if got.Rows != want.Rows {
		return Integrity("mount %q has %d rows instead of %d", m.Name, got.Rows, want.Rows)
	}
	if got.Acc != want.Acc {
		return Integrity("a row of mount %q was changed, swapped or put back", m.Name)
	}
	return nil
}

// Generation returns the commit counter.
func (b *Barrier) Generation() uint64 { return b.generation.Load() }

// Mounts returns the mounts of a type.
func (b *Barrier) Mounts(typ string) []store.Mount {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var out []store.Mount
	for _, m := range b.mounts {
		if m.Type == typ {
			out = append(out, m.Mount)
		}
	}
	return out
}

// find returns a mount. The caller holds mu.
func (b *Barrier) find(name string) (*mount, error) {
	if b.closed {
		return nil, fault.New(fault.Unavailable, "sealed").WithReason("SEALED")
	}
	m := b.mounts[name]
	if m == nil {
		return nil, fault.New(fault.NotFound, "there is no mount %q", name)
	}
	return m, nil
}

// MAC returns a MAC under the mount's k_mac, for rows outside the barrier that grant something. The label keeps uses
// apart. Not from inside Read or Write: see [View.MAC].
func (b *Barrier) MAC(mountName, label string, parts ...[]byte) ([]byte, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	m, err := b.find(mountName)
	if err != nil {
		return nil, err
	}
	return m.publicMAC(label, parts), nil
}

func (m *mount) publicMAC(label string, parts [][]byte) []byte {
	sum := mac(m.kMAC, append([][]byte{[]byte("metacrypt/v2/public"), []byte(label)}, parts...)...)
	return sum[:]
}

// Close wipes what can be wiped and drops the rest. It may be called more than once.
func (b *Barrier) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, m := range b.mounts {
		clear(m.kPath)
		clear(m.kMAC)
		m.data, m.active = nil, nil
	}
	b.mounts, b.root = nil, nil
	b.master.Close()
}

// String keeps a barrier out of logs.
func (b *Barrier) String() string { return fmt.Sprintf("barrier at generation %d", b.Generation()) }
