package keyslot_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/keyslot/keyslottest"
)

var password = keyslot.Secret{Kind: keyslot.Password, Value: []byte("a sentence of mine")}

func key(t *testing.T, m *keyslot.Master) []byte {
	t.Helper()
	var out []byte
	if err := m.Use(func(k []byte) error { out = bytes.Clone(k); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEverySlotOpensTheSameKey(t *testing.T) {
	t.Parallel()
	s := keyslottest.New(t, keyslot.Config{})
	cred := keyslot.Secret{Kind: keyslot.Credential, Value: bytes.Repeat([]byte{7}, 32)}
	m, made, err := s.Init(t.Context(), password, cred)
	if err != nil {
		t.Fatal(err)
	}
	want := key(t, m)
	m.Close()
	if err := m.Use(func([]byte) error { return nil }); !fault.HasReason(err, "SEALED") {
		t.Errorf("use after close = %v, want SEALED", err)
	}
	sloppy := strings.ToLower(strings.ReplaceAll(made.RecoveryCode, "-", " "))
	for i, sec := range []keyslot.Secret{password, cred, {Kind: keyslot.Recovery, Value: []byte(sloppy)}} {
		m, id, err := s.Unlock(t.Context(), sec, keyslot.Local)
		if err != nil {
			t.Fatalf("%s: %v", sec.Kind, err)
		}
		if !bytes.Equal(key(t, m), want) || id != made.IDs[i] {
			t.Errorf("%s: slot %s gives another key", sec.Kind, id)
		}
		m.Close()
	}
	if _, _, err := s.Init(t.Context(), password); !fault.HasReason(err, "INITIALIZED") {
		t.Errorf("second init = %v, want INITIALIZED", err)
	}
}

func TestWrongPasswordsBackOff(t *testing.T) {
	t.Parallel()
	clk := clock.NewFake(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))
	s := keyslottest.New(t, keyslot.Config{Clock: clk})
	_, made, err := s.Init(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	bad := keyslot.Secret{Kind: keyslot.Password, Value: []byte("not this sentence")}
	if _, _, err := s.Unlock(t.Context(), bad, keyslot.Remote); !fault.HasReason(err, "WRONG_SECRET") {
		t.Fatalf("wrong password = %v", err)
	}
	if _, _, err := s.Unlock(t.Context(), password, keyslot.Remote); !fault.HasReason(err, "BACKOFF") {
		t.Fatalf("right password during back-off = %v, want BACKOFF", err)
	}
	if _, _, err := s.Unlock(t.Context(), password, keyslot.Local); err != nil {
		t.Errorf("the socket is locked too: %v", err)
	}
	if _, _, err := s.Unlock(t.Context(), keyslot.Secret{Kind: keyslot.Recovery, Value: []byte(made.RecoveryCode)}, keyslot.Remote); err != nil {
		t.Errorf("the recovery code waits too: %v", err)
	}
	clk.Advance(2 * time.Second)
	if _, _, err := s.Unlock(t.Context(), password, keyslot.Remote); err != nil {
		t.Errorf("after the back-off: %v", err)
	}
}

func TestTypingErrorsInTheCodeAreFoundUncounted(t *testing.T) {
	t.Parallel()
	store := &keyslottest.Store{}
	s := keyslottest.New(t, keyslot.Config{Store: store})
	_, made, err := s.Init(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	for i, ch := range made.RecoveryCode {
		if ch == '-' {
			continue
		}
		for _, r := range "0123456789ABCDEFGHJKMNPQRSTVWXYZ" {
			if r == ch {
				continue
			}
			typo := made.RecoveryCode[:i] + string(r) + made.RecoveryCode[i+1:]
			if _, _, err := s.Unlock(t.Context(), keyslot.Secret{Kind: keyslot.Recovery, Value: []byte(typo)}, keyslot.Remote); !fault.Is(err, fault.Invalid) {
				t.Fatalf("character %d as %c: %v, want Invalid", i, r, err)
			}
		}
	}
	_ = store.UpdateAttempts(t.Context(), "recovery/remote", func(a keyslot.Attempts) (keyslot.Attempts, error) {
		if a.Count != 0 {
			t.Errorf("%d typing errors were counted", a.Count)
		}
		return a, nil
	})
}

func TestEveryFlippedByteOfARowIsFound(t *testing.T) {
	t.Parallel()
	store := &keyslottest.Store{}
	s := keyslottest.New(t, keyslot.Config{Store: store})
	cred := keyslot.Secret{Kind: keyslot.Credential, Value: bytes.Repeat([]byte{9}, 40)}
	if _, _, err := s.Init(t.Context(), cred); err != nil {
		t.Fatal(err)
	}
	rows, _ := store.Slots(t.Context())
	good := rows[0]
	for name, field := range map[string]func(*keyslot.Row) *[]byte{
		"pub": func(r *keyslot.Row) *[]byte { return &r.Pub }, "priv": func(r *keyslot.Row) *[]byte { return &r.WrappedPriv },
		"mek": func(r *keyslot.Row) *[]byte { return &r.SealedMEK }, "salt": func(r *keyslot.Row) *[]byte { return &r.Params.Salt },
	} {
		n := len(*field(&good))
		step := max(1, n/64)
		for i := 0; i < n; i += step {
			bad := good
			b := bytes.Clone(*field(&good))
			b[i] ^= 1
			*field(&bad) = b
			if err := store.SaveSlots(t.Context(), []keyslot.Row{bad}, nil); err != nil {
				t.Fatal(err)
			}
			if m, _, err := s.Unlock(t.Context(), cred, keyslot.Local); err == nil {
				m.Close()
				t.Fatalf("%s byte %d flipped and the slot opens", name, i)
			}
		}
	}
}

func TestCostsOutsideTheBoundsAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]keyslot.Costs{
		"below": {Time: 1, Memory: 1 << 10, Threads: 4}, "memory above": {Time: 3, Memory: 2 << 20, Threads: 4},
		"time above": {Time: 11, Memory: 128 << 10, Threads: 4}, "threads above": {Time: 3, Memory: 128 << 10, Threads: 9},
	} {
		if _, err := keyslot.New(keyslot.Config{Service: "x", Store: &keyslottest.Store{}, Costs: c}); err == nil {
			t.Errorf("%s: accepted for new slots", name)
		}
	}
	weak := &keyslottest.Store{}
	if _, _, err := keyslottest.New(t, keyslot.Config{Store: weak}).Init(t.Context(), password); err != nil {
		t.Fatal(err)
	}
	strong, err := keyslot.New(keyslot.Config{Service: "x", Store: weak})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := strong.Unlock(t.Context(), password, keyslot.Local); !fault.HasReason(err, "INTEGRITY") {
		t.Errorf("a row with lowered costs = %v, want INTEGRITY", err)
	}
}

func TestRealCosts(t *testing.T) {
	t.Parallel()
	s, err := keyslot.New(keyslot.Config{Service: "x", Store: &keyslottest.Store{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Init(t.Context(), password); err != nil {
		t.Fatal(err)
	}
	m, _, err := s.Unlock(t.Context(), password, keyslot.Local)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

func TestRemovalAndReseal(t *testing.T) {
	t.Parallel()
	store := &keyslottest.Store{}
	s := keyslottest.New(t, keyslot.Config{Store: store})
	m, made, err := s.Init(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), made.IDs[1]); !fault.HasReason(err, "LAST_SLOT") {
		t.Errorf("removing the last recovery slot = %v", err)
	}
	if _, _, err := s.Add(t.Context(), m, keyslot.Secret{Kind: keyslot.Recovery}); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), made.IDs[1]); err != nil {
		t.Errorf("removing one of two recovery slots = %v", err)
	}
	rows, _ := s.List(t.Context())
	next := keyslot.NewMaster()
	resealed, err := keyslot.Reseal(rows, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.SaveSlots(t.Context(), resealed, nil); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.Unlock(t.Context(), password, keyslot.Local)
	if err != nil || !bytes.Equal(key(t, got), key(t, next)) {
		t.Errorf("after reseal the password opens %v", err)
	}
}

func TestWeakPasswordsAreRefused(t *testing.T) {
	t.Parallel()
	for _, pw := range []string{"", "short", "elevenchars", "aaaaaaaaaaaaaaaa", "Password1234", "1q2w3e4r5t6y", "\xff\xfe valid length here"} {
		if err := keyslot.CheckPassword([]byte(pw)); !fault.Is(err, fault.Invalid) {
			t.Errorf("CheckPassword(%q) = %v, want Invalid", pw, err)
		}
	}
	if err := keyslot.CheckPassword([]byte("пароль из слов")); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeParams(f *testing.F) {
	f.Add(keyslot.Params{KDF: "argon2id", Costs: keyslot.DefaultCosts(), Salt: make([]byte, 32)}.Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := keyslot.DecodeParams(b)
		if err == nil && !bytes.Equal(p.Encode(), b) {
			t.Errorf("DecodeParams(%x) is not canonical", b)
		}
	})
}

func FuzzRecoveryCode(f *testing.F) {
	s := keyslottest.New(f, keyslot.Config{})
	f.Add("0000-0000")
	f.Add("ILO ilo é")
	f.Fuzz(func(t *testing.T, code string) {
		if m, _, err := s.Unlock(t.Context(), keyslot.Secret{Kind: keyslot.Recovery, Value: []byte(code)}, keyslot.Remote); err == nil {
			m.Close()
			t.Error("an empty store opened")
		}
	})
}
