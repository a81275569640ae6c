package barrier

import (
	"context"
	"crypto/cipher"
	"encoding/hex"
	"slices"
	"strings"
	"sync/atomic"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/store"
)

// View reads. It belongs to the function it is given to.
type View struct {
	b *Barrier
	q db.Queryer
}

// SQL returns the database view beneath, for public tables.
func (v *View) SQL() db.Queryer { return v.q }

// Get returns a value and its revision; revision 0 means that there is none.
func (v *View) Get(mountName, path string) ([]byte, int64, error) {
	m, err := v.b.find(mountName)
	if err != nil {
		return nil, 0, err
	}
	e, ok, err := store.GetEntry(v.q, m.ID, m.hash(path))
	if err != nil || !ok {
		return nil, 0, err
	}
	val, err := m.open(path, e)
	return val, e.Rev, err
}

// MAC is [Barrier.MAC] from inside Read or Write, where the barrier's own would wait for itself.
func (v *View) MAC(mountName, label string, parts ...[]byte) ([]byte, error) {
	m, err := v.b.find(mountName)
	if err != nil {
		return nil, err
	}
	return m.publicMAC(label, parts), nil
}

// List returns the paths that begin with prefix, sorted. It decrypts every name of the mount.
func (v *View) List(mountName, prefix string) ([]string, error) {
	m, err := v.b.find(mountName)
	if err != nil {
		return nil, err
	}
	var out []string
	err = store.ScanEntries(v.q, m.ID, func(e store.Entry) error {
		p, err := m.path(e)
		if err == nil && strings.HasPrefix(p, prefix) {
			out = append(out, p)
		}
		return err
	})
	slices.Sort(out)
	return out, err
}

// Tx writes. It belongs to the function it is given to.
type Tx struct {
	View
	tx      *db.Tx
	root    *rootRow
	touched map[*dataKey]int64 // uses to reserve
}

// SQL returns the transaction beneath, for public tables.
func (t *Tx) SQL() *db.Tx { return t.tx }

// Put stores a value under a path; it returns the new revision.
func (t *Tx) Put(mountName, path string, value []byte) (int64, error) {
	m, err := t.b.find(mountName)
	if err != nil {
		return 0, err
	}
	tot, err := t.total(m)
	if err != nil {
		return 0, err
	}
	old, had, err := store.GetEntry(t.tx, m.ID, m.hash(path))
	if err != nil {
		return 0, err
	}
	e, err := m.seal(path, old.Rev+1, value)
	if err != nil {
		return 0, err
	}
	if err := t.reserve(m.active); err != nil {
		return 0, err
	}
	if had {
		tot.Acc.xor(m.rowMAC(old))
	} else {
		tot.Rows++
	}
	tot.Acc.xor(m.rowMAC(e))
	return e.Rev, store.PutEntry(t.tx, m.ID, e)
}

// Delete removes a path; it reports whether there was one.
func (t *Tx) Delete(mountName, path string) (bool, error) {
	m, err := t.b.find(mountName)
	if err != nil {
		return false, err
	}
	tot, err := t.total(m)
	if err != nil {
		return false, err
	}
	old, had, err := store.GetEntry(t.tx, m.ID, m.hash(path))
	if err != nil || !had {
		return false, err
	}
	tot.Acc.xor(m.rowMAC(old))
	tot.Rows--
	return true, store.DeleteEntry(t.tx, m.ID, old.PathHash)
}

// load reads the root once per transaction. It comes from the transaction and not from memory, because several
// functions may share one commit.
func (t *Tx) load() error {
	if t.root != nil {
		return nil
	}
	r, err := loadRoot(t.tx, t.b.root)
	if err != nil {
		return err
	}
	if r.Generation < t.b.generation.Load() {
		return Integrity("the integrity root went back while the store was open")
	}
	t.root = r
	return nil
}

func (t *Tx) total(m *mount) (*total, error) {
	if err := t.load(); err != nil {
		return nil, err
	}
	tot := t.root.Totals[hex.EncodeToString(m.ID)]
	if tot == nil {
		return nil, Integrity("mount %q has no total", m.Name)
	}
	return tot, nil
}

// reserve notes a block of uses before the first of them is committed.
func (t *Tx) reserve(k *dataKey) error {
	uses := k.uses.Load()
	if uses <= k.reserved.Load() || uses <= t.touched[k] {
		return nil
	}
	if t.touched == nil {
		t.touched = map[*dataKey]int64{}
	}
	t.touched[k] = uses + useBlock
	return store.ReserveUses(t.tx, k.id, uses+useBlock)
}

// Read runs f on a consistent view.
func (b *Barrier) Read(ctx context.Context, f func(*View) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return fault.New(fault.Unavailable, "sealed").WithReason("SEALED")
	}
	return b.db.Read(ctx, func(v *db.View) error { return f(&View{b: b, q: v}) })
}

// Write runs f in a transaction. If f changed entries the integrity root is rewritten with it. f may run twice and has
// no effect outside the transaction. When Write has returned nil the change is on disk.
func (b *Barrier) Write(ctx context.Context, f func(*Tx) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return fault.New(fault.Unavailable, "sealed").WithReason("SEALED")
	}
	return b.write(ctx, b.root, f)
}

// write is Write for a caller that holds mu.
func (b *Barrier) write(ctx context.Context, saveWith cipher.AEAD, f func(*Tx) error) error {
	var last *Tx
	err := b.db.Write(ctx, func(tx *db.Tx) error {
		t := &Tx{View: View{b: b, q: tx}, tx: tx}
		last = t
		if err := f(t); err != nil {
			return err
		}
		if t.root == nil {
			return nil
		}
		return t.root.save(tx, saveWith)
	})
	if err != nil || last == nil || last.root == nil {
		return err
	}
	for k, n := range last.touched { // after the commit only
		raise(&k.reserved, n)
	}
	for {
		old := b.generation.Load()
		if old >= last.root.Generation || b.generation.CompareAndSwap(old, last.root.Generation) {
			return nil
		}
	}
}

// raise sets a counter to n unless it is higher.
func raise(c *atomic.Int64, n int64) {
	for {
		old := c.Load()
		if old >= n || c.CompareAndSwap(old, n) {
			return
		}
	}
}
