package barrier

import (
	"context"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/metacrypt/internal/store"
)

// SaveSlots changes slots and their digests in one transaction.
func (b *Barrier) SaveSlots(ctx context.Context, put []keyslot.Row, remove []string) error {
	return b.Write(ctx, func(tx *Tx) error { return tx.saveSlots(put, remove) })
}

func (t *Tx) saveSlots(put []keyslot.Row, remove []string) error {
	if err := t.load(); err != nil {
		return err
	}
	for _, r := range put {
		if err := store.PutSlot(t.tx, r); err != nil {
			return err
		}
		t.root.addSlot(r)
	}
	for _, id := range remove {
		if err := store.DeleteSlot(t.tx, id); err != nil {
			return err
		}
		delete(t.root.Slots, id)
	}
	return nil
}

// NewSlot makes a slot round the open barrier's master key, without storing it.
func (b *Barrier) NewSlot(slots *keyslot.Slots, sec keyslot.Secret) (keyslot.Row, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return keyslot.Row{}, fault.New(fault.Unavailable, "sealed").WithReason("SEALED")
	}
	return slots.NewRow(b.master, sec)
}

// RotateMEK gives the store a new master key in one transaction: every key is wrapped anew, every slot that stays gets
// the new key, the slots in remove are gone. put joins before. Whoever kept an old row and its secret opens nothing.
func (b *Barrier) RotateMEK(ctx context.Context, put []keyslot.Row, remove []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fault.New(fault.Unavailable, "sealed").WithReason("SEALED")
	}
	oldWrap, _, err := derived(b.master)
	if err != nil {
		return err
	}
	next := keyslot.NewMaster()
	newWrap, newRoot, err := derived(next)
	if err != nil {
		next.Close()
		return err
	}
	err = b.write(ctx, newRoot, func(tx *Tx) error {
		if err := tx.saveSlots(put, remove); err != nil {
			return err
		}
		rows, err := store.Slots(tx.tx)
		if err != nil {
			return err
		}
		if err := tx.root.checkSlots(rows); err != nil { // never seal a new key to an exchanged public key
			return err
		}
		resealed, err := keyslot.Reseal(rows, next)
		if err != nil {
			return err
		}
		if err := tx.saveSlots(resealed, nil); err != nil {
			return err
		}
		keys, err := store.Keys(tx.tx)
		if err != nil {
			return err
		}
		for _, k := range keys {
			secret, err := oldWrap.Open(nil, nil, k.Wrapped, keyAAD(k))
			if err != nil {
				return Integrity("a key cannot be unwrapped")
			}
			k.Wrapped = newWrap.Seal(nil, nil, secret, keyAAD(k))
			clear(secret)
			if err := store.PutKey(tx.tx, k); err != nil {
				return err
			}
			tx.root.addKey(k)
		}
		return nil
	})
	if err != nil {
		next.Close()
		return err
	}
	b.master.Close()
	b.master, b.root = next, newRoot
	return nil
}
