package seal

import (
	"context"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/metacrypt/internal/store"
)

// slotStore is the keyslot.Store of the database. Slots change only through the open barrier, which keeps their digests.
type slotStore struct{ s *Seal }

func (st slotStore) Slots(ctx context.Context) ([]keyslot.Row, error) {
	var rows []keyslot.Row
	err := st.s.cfg.DB.Read(ctx, func(v *db.View) error {
		var err error
		rows, err = store.Slots(v)
		return err
	})
	return rows, err
}

func (st slotStore) SaveSlots(ctx context.Context, put []keyslot.Row, remove []string) error {
	return st.s.With(ctx, func(l *Lease) error { return l.Barrier.SaveSlots(l.Ctx, put, remove) })
}

func (st slotStore) UpdateAttempts(ctx context.Context, lane string, f func(keyslot.Attempts) (keyslot.Attempts, error)) error {
	return st.s.cfg.DB.Write(ctx, func(tx *db.Tx) error { return store.UpdateAttempts(tx, lane, f) })
}

// Slots returns the slots.
func (s *Seal) Slots(ctx context.Context) ([]keyslot.Row, error) { return s.slots.List(ctx) }

// Prove checks the secret of a slot and changes nothing; it returns the slot's id.
func (s *Seal) Prove(ctx context.Context, proof keyslot.Secret, from keyslot.Origin) (string, error) {
	if !proof.Kind.Interactive() {
		return "", fault.Field1("proof.kind", "%q is not password or recovery", string(proof.Kind))
	}
	m, id, err := s.slots.Unlock(ctx, proof, from)
	if err != nil {
		return "", err
	}
	m.Close()
	return id, nil
}

// AddSlot makes a slot. For a recovery slot it makes the code and returns it.
func (s *Seal) AddSlot(ctx context.Context, sec keyslot.Secret) (keyslot.Row, string, error) {
	rows, err := s.Slots(ctx)
	if err != nil {
		return keyslot.Row{}, "", err
	}
	if len(rows) >= 16 {
		return keyslot.Row{}, "", fault.New(fault.Exhausted, "there are %d slots, the most there can be", len(rows)).WithNext("metacrypt slot remove ID")
	}
	return s.put(ctx, sec, func(l *Lease, r keyslot.Row) error { return l.Barrier.SaveSlots(l.Ctx, []keyslot.Row{r}, nil) })
}

// ReplaceSlot gives a slot a new secret and rotates the master key, so that the old one opens nothing.
func (s *Seal) ReplaceSlot(ctx context.Context, id string, value []byte) (keyslot.Row, string, error) {
	rows, err := s.Slots(ctx)
	if err != nil {
		return keyslot.Row{}, "", err
	}
	for _, r := range rows {
		if r.ID == id {
			return s.put(ctx, keyslot.Secret{Kind: r.Kind, Value: value}, func(l *Lease, n keyslot.Row) error {
				return l.Barrier.RotateMEK(l.Ctx, []keyslot.Row{n}, []string{id})
			})
		}
	}
	return keyslot.Row{}, "", fault.New(fault.NotFound, "there is no slot %q", id).WithNext("metacrypt slot list")
}

func (s *Seal) put(ctx context.Context, sec keyslot.Secret, save func(*Lease, keyslot.Row) error) (keyslot.Row, string, error) {
	code := ""
	if sec.Kind == keyslot.Recovery {
		code = keyslot.NewRecoveryCode()
		sec.Value = []byte(code)
	}
	var row keyslot.Row
	err := s.With(ctx, func(l *Lease) error {
		var err error
		if row, err = l.Barrier.NewSlot(s.slots, sec); err != nil {
			return err
		}
		return save(l, row)
	})
	if err != nil {
		return keyslot.Row{}, "", err
	}
	return row, code, nil
}

// RemoveSlot removes a slot and rotates the master key: a slot cannot take back what its holder copied.
func (s *Seal) RemoveSlot(ctx context.Context, id string) error {
	rows, err := s.Slots(ctx)
	if err != nil {
		return err
	}
	if err := keyslot.Removable(rows, id); err != nil {
		return err
	}
	return s.With(ctx, func(l *Lease) error { return l.Barrier.RotateMEK(l.Ctx, nil, []string{id}) })
}
