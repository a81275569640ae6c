package rpc

import (
	"context"
	"encoding/hex"
	"math"
	"strconv"
	"strings"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/page"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/token"
	"metacircular.net/mcias/internal/vault"
)

type auditServer struct {
	mciasv1.UnimplementedAuditServer
	*Servers
}

// List returns records, newest first.
func (s auditServer) List(ctx context.Context, r *mciasv1.AuditListRequest) (*mciasv1.AuditListResponse, error) {
	if err := s.may(ctx, "audit:read", resource{name: "audit"}); err != nil {
		return nil, err
	}
	f := store.AuditFilter{Actor: r.GetActor(), Action: r.GetAction(), Target: r.GetTarget(), Since: instant(r.GetSince())}
	p, err := page.Parse(r.GetPageSize(), r.GetPageToken(), "audit", f.Actor, f.Action, f.Target, f.Since.String())
	if err != nil {
		return nil, err
	}
	below := int64(math.MaxInt64)
	if n, err := strconv.ParseInt(p.After(0), 10, 64); err == nil {
		below = n
	}
	out := &mciasv1.AuditListResponse{}
	err = s.DB.Read(ctx, func(v *db.View) error {
		rows, err := store.AuditPage(v, f, below, p.Limit())
		if err != nil {
			return err
		}
		rows, out.NextPageToken = page.Next(p, rows, func(x store.AuditRow) []string { return []string{strconv.FormatInt(x.Seq, 10)} })
		for _, x := range rows {
			out.Records = append(out.Records, &mciasv1.AuditRecord{Seq: x.Seq, Time: stamp(x.Time), Actor: x.Actor, Action: x.Action, Target: x.Target,
				Ip: x.IP, Detail: audit.Details(x), Hash: hex.EncodeToString(x.Hash), Outcome: x.Outcome})
		}
		return nil
	})
	return out, err
}

// Verify recomputes the chain.
func (s auditServer) Verify(ctx context.Context, _ *mciasv1.AuditVerifyRequest) (*mciasv1.AuditVerifyResponse, error) {
	if err := s.may(ctx, "audit:read", resource{name: "audit"}); err != nil {
		return nil, err
	}
	res, err := audit.Verify(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	return &mciasv1.AuditVerifyResponse{Ok: res.OK, Records: res.Records, LastSeq: res.LastSeq, LastHash: res.LastHash, BadSeq: res.BadSeq, Why: res.Why}, nil
}

type keyServer struct {
	mciasv1.UnimplementedKeyServer
	*Servers
}

func signingKey(k *store.SigningKey) *mciasv1.SigningKey {
	if k == nil {
		return nil
	}
	return &mciasv1.SigningKey{Kid: k.KID, Alg: k.Alg, Use: k.Use, State: k.State, NotBefore: stamp(k.NotBefore), RetireAt: stamp(k.RetireAt)}
}

// List returns the signing keys.
func (s keyServer) List(ctx context.Context, _ *mciasv1.KeyListRequest) (*mciasv1.KeyListResponse, error) {
	if err := s.may(ctx, "keys:list", resource{name: "signing keys"}); err != nil {
		return nil, err
	}
	out := &mciasv1.KeyListResponse{}
	for _, k := range s.Keys.List() {
		out.Keys = append(out.Keys, signingKey(k))
	}
	return out, nil
}

// Rotate makes a new active key; the old one verifies on.
func (s keyServer) Rotate(ctx context.Context, r *mciasv1.KeyRotateRequest) (*mciasv1.KeyRotateResponse, error) {
	if err := s.may(ctx, "keys:manage", resource{name: "signing keys"}); err != nil {
		return nil, err
	}
	b := by(ctx)
	fresh, old, err := s.Keys.Replace(ctx, r.GetUse(), token.Retiring, func(tx *db.Tx, fresh, _ *store.SigningKey) error {
		return audit.Append(tx, s.Clock.Now(), b.Record("key.rotate", fresh.Use, "kid", fresh.KID))
	})
	if err != nil {
		return nil, err
	}
	s.Hub.Flush(context.WithoutCancel(ctx))
	return &mciasv1.KeyRotateResponse{Active: signingKey(fresh), Retiring: signingKey(old)}, nil
}

// Compromise removes a key everywhere at once.
func (s keyServer) Compromise(ctx context.Context, r *mciasv1.KeyCompromiseRequest) (*mciasv1.KeyCompromiseResponse, error) {
	if err := s.may(ctx, "keys:manage", resource{name: "signing key " + r.GetKid()}); err != nil {
		return nil, err
	}
	k, err := s.Keys.Find(r.GetKid())
	if err != nil {
		return nil, err
	}
	b, now := by(ctx), s.Clock.Now()
	note := func(tx *db.Tx) error {
		if _, err := s.Killer.Kill(tx, now, revoke.Row{Kind: revoke.KID, Value: k.KID}); err != nil {
			return err
		}
		return audit.Append(tx, now, b.Record("key.compromise", k.Use, "kid", k.KID))
	}
	out := &mciasv1.KeyCompromiseResponse{}
	if k.State == token.Active {
		fresh, _, err := s.Keys.Replace(ctx, k.Use, token.Compromised, func(tx *db.Tx, _, _ *store.SigningKey) error { return note(tx) })
		if err != nil {
			return nil, err
		}
		out.Active = signingKey(fresh)
	} else if err := s.Keys.Compromise(ctx, k.KID, note); err != nil {
		return nil, err
	}
	s.Hub.Flush(context.WithoutCancel(ctx))
	out.Seq = s.Hub.Seq()
	if k.Use == token.OIDC {
		out.Note = "apps may hold the old key set for five minutes more"
	}
	return out, nil
}

type vaultServer struct {
	mciasv1.UnimplementedVaultServer
	*Servers
}

// Status says sealed or not.
func (s vaultServer) Status(ctx context.Context, _ *mciasv1.VaultStatusRequest) (*mciasv1.VaultStatusResponse, error) {
	held, err := s.Vault.Held(ctx)
	return &mciasv1.VaultStatusResponse{State: s.Vault.State(), Held: held && !s.Vault.Open()}, err
}

// recoveryChars is the length of a recovery code without its dashes.
const recoveryChars = 32

// typed makes a slot secret of what a person typed: a recovery code if it has the form of one.
func typed(text string) keyslot.Secret {
	bare := strings.Map(func(r rune) rune {
		if r == '-' || r == ' ' {
			return -1
		}
		return r
	}, text)
	if len(bare) == recoveryChars && strings.Trim(strings.ToUpper(bare), "0123456789ABCDEFGHJKMNPQRSTVWXYZILO") == "" {
		return keyslot.Secret{Kind: keyslot.Recovery, Value: []byte(text)}
	}
	return keyslot.Secret{Kind: keyslot.Password, Value: []byte(text)}
}

func origin(ctx context.Context) keyslot.Origin {
	if overSocket(ctx) {
		return keyslot.Local
	}
	return keyslot.Remote
}

// Unseal opens the vault.
func (s vaultServer) Unseal(ctx context.Context, r *mciasv1.VaultUnsealRequest) (*mciasv1.VaultUnsealResponse, error) {
	sec := typed(r.GetSecret())
	was := s.Vault.State()
	if err := s.Vault.Unseal(ctx, sec, origin(ctx)); err != nil {
		return nil, err
	}
	if was == vault.Sealed {
		b := by(ctx)
		if overSocket(ctx) {
			b.Name = "local"
		}
		err := s.DB.Write(ctx, func(tx *db.Tx) error {
			return audit.Append(tx, s.Clock.Now(), b.Record("vault.unseal", "vault", "slot", string(sec.Kind)))
		})
		if err != nil {
			return nil, err
		}
	}
	return &mciasv1.VaultUnsealResponse{State: s.Vault.State()}, nil
}

// Seal wipes the keys.
func (s vaultServer) Seal(ctx context.Context, _ *mciasv1.VaultSealRequest) (*mciasv1.VaultSealResponse, error) {
	if err := s.may(ctx, "vault:manage", resource{name: "vault"}); err != nil {
		return nil, err
	}
	b := by(ctx)
	err := s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := store.SetMeta(tx, store.MetaHeld, "1"); err != nil {
			return err
		}
		return audit.Append(tx, s.Clock.Now(), b.Record("vault.seal", "vault"))
	})
	if err != nil {
		return nil, err
	}
	s.Vault.Seal()
	return &mciasv1.VaultSealResponse{State: s.Vault.State()}, nil
}

func slotOut(k keyslot.Row) *mciasv1.VaultSlot {
	return &mciasv1.VaultSlot{Id: k.ID, Kind: string(k.Kind), CreatedAt: stamp(k.CreatedAt)}
}

// ListSlots lists the slots.
func (s vaultServer) ListSlots(ctx context.Context, _ *mciasv1.VaultListSlotsRequest) (*mciasv1.VaultListSlotsResponse, error) {
	if err := s.may(ctx, "vault:read", resource{name: "vault"}); err != nil {
		return nil, err
	}
	rows, err := s.Vault.Slots(ctx)
	if err != nil {
		return nil, err
	}
	out := &mciasv1.VaultListSlotsResponse{}
	for _, k := range rows {
		out.Slots = append(out.Slots, slotOut(k))
	}
	return out, nil
}

// AddSlot adds a slot with the proof of another.
func (s vaultServer) AddSlot(ctx context.Context, r *mciasv1.VaultAddSlotRequest) (*mciasv1.VaultAddSlotResponse, error) {
	if err := s.may(ctx, "vault:manage", resource{name: "vault"}); err != nil {
		return nil, err
	}
	sec, made, err := newSecret(r)
	if err != nil {
		return nil, err
	}
	row, m, err := s.Vault.AddSlot(ctx, typed(r.GetProof()), sec, origin(ctx))
	if err != nil {
		return nil, err
	}
	if m.RecoveryCode != "" {
		made = m.RecoveryCode
	}
	b := by(ctx)
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		return audit.Append(tx, s.Clock.Now(), b.Record("vault.slot.add", row.ID, "kind", string(row.Kind)))
	})
	if err != nil {
		return nil, err
	}
	return &mciasv1.VaultAddSlotResponse{Slot: slotOut(row), Secret: made}, nil
}

// newSecret returns the secret of a new slot, and what the caller has to be shown.
func newSecret(r *mciasv1.VaultAddSlotRequest) (keyslot.Secret, string, error) {
	kind := keyslot.Kind(r.GetKind())
	switch kind {
	case keyslot.Password:
		return keyslot.Secret{Kind: kind, Value: []byte(r.GetSecret())}, "", nil
	case keyslot.Recovery:
		return keyslot.Secret{Kind: kind}, "", nil
	case keyslot.Credential:
		if r.GetSecret() != "" {
			return keyslot.Secret{Kind: kind, Value: []byte(r.GetSecret())}, "", nil
		}
		text := vault.NewCredential()
		return keyslot.Secret{Kind: kind, Value: []byte(text)}, text, nil
	}
	return keyslot.Secret{}, "", fault.Field1("kind", "%q is none of password, recovery, credential", r.GetKind())
}

// RemoveSlot removes a slot with the proof of one.
func (s vaultServer) RemoveSlot(ctx context.Context, r *mciasv1.VaultRemoveSlotRequest) (*mciasv1.VaultRemoveSlotResponse, error) {
	if err := s.may(ctx, "vault:manage", resource{name: "vault"}); err != nil {
		return nil, err
	}
	if err := s.Vault.RemoveSlot(ctx, typed(r.GetProof()), r.GetId(), origin(ctx)); err != nil {
		return nil, err
	}
	b := by(ctx)
	err := s.DB.Write(ctx, func(tx *db.Tx) error {
		return audit.Append(tx, s.Clock.Now(), b.Record("vault.slot.remove", r.GetId()))
	})
	return &mciasv1.VaultRemoveSlotResponse{}, err
}
