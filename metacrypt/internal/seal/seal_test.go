package seal_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
	"metacircular.net/mcdsl/keyslot/keyslottest"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/engine"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/policy"
	"metacircular.net/metacrypt/internal/seal"
	"metacircular.net/metacrypt/internal/store"
)

var password = []byte("a sentence of mine")

type fixture struct {
	path string
	db   *db.DB
	seal *seal.Seal
	code string
}

func open(t *testing.T, path, credential string, clk clock.Clock) *fixture {
	t.Helper()
	d, err := db.Open(t.Context(), db.Config{Path: path, Service: "metacrypt", Migrations: store.Migrations})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	s, err := seal.New(t.Context(), seal.Config{DB: d, CredentialFile: credential, Clock: clk, Slots: keyslottest.Config(t, keyslot.Config{Store: &keyslottest.Store{}}),
		Engines: engine.Config{PKI: pki.Config{RenewGrace: 30 * 24 * time.Hour, Clock: clk}}})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{path: path, db: d, seal: s}
}

func initialized(t *testing.T, credential []byte) *fixture {
	t.Helper()
	f := open(t, filepath.Join(t.TempDir(), "m.db"), "", nil)
	var err error
	if f.code, _, err = f.seal.Init(t.Context(), password, credential); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) unseal(t *testing.T) {
	t.Helper()
	if _, err := f.seal.Unseal(t.Context(), keyslot.Secret{Kind: keyslot.Password, Value: password}, keyslot.Local); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) put(t *testing.T, path, value string) {
	t.Helper()
	err := f.seal.With(t.Context(), func(l *seal.Lease) error {
		return l.Barrier.Write(l.Ctx, func(tx *barrier.Tx) error {
			_, err := tx.Put(barrier.System, path, []byte(value))
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	f := open(t, filepath.Join(t.TempDir(), "m.db"), "", nil)
	if _, err := f.seal.Acquire(t.Context()); !fault.HasReason(err, "UNINITIALIZED") {
		t.Errorf("uninitialized: %v", err)
	}
	var err error
	if f.code, _, err = f.seal.Init(t.Context(), password, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.seal.Init(t.Context(), password, nil); !fault.HasReason(err, "INITIALIZED") {
		t.Errorf("second init: %v", err)
	}
	if _, err := f.seal.Acquire(t.Context()); !fault.HasReason(err, "SEALED") {
		t.Errorf("sealed: %v", err)
	}
	_, err = f.seal.Unseal(t.Context(), keyslot.Secret{Kind: keyslot.Password, Value: []byte("a sentence of yours")}, keyslot.Remote)
	if !fault.HasReason(err, "WRONG_SECRET") || fault.From(err).Next == "" || fault.From(err).Message != "the password opens no slot" {
		t.Errorf("wrong password: %v, next %q", err, fault.From(err).Next)
	}
	f.unseal(t)
	f.put(t, "x", "y")
	if err := f.seal.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := f.seal.Status(t.Context()); st.State != seal.Sealed || !st.Hold {
		t.Errorf("after seal: %+v", st)
	}
	if _, err := f.seal.Unseal(t.Context(), keyslot.Secret{Kind: keyslot.Recovery, Value: []byte(f.code)}, keyslot.Remote); err != nil {
		t.Errorf("recovery code: %v", err)
	}
	if st := f.seal.Status(t.Context()); st.State != seal.Unsealed || st.Hold || st.Generation < 2 {
		t.Errorf("after unseal: %+v", st)
	}
}

func TestCredentialUnsealsByItselfUnlessHeld(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cred := filepath.Join(dir, "cred")
	if err := os.WriteFile(cred, bytes.Repeat([]byte{5}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "m.db")
	f := open(t, path, cred, nil)
	if _, _, err := f.seal.Init(t.Context(), password, bytes.Repeat([]byte{5}, 32)); err != nil {
		t.Fatal(err)
	}
	restart := func() *fixture {
		t.Helper()
		if err := f.db.Close(); err != nil {
			t.Fatal(err)
		}
		f = open(t, path, cred, nil)
		f.seal.Start(t.Context())
		return f
	}
	if st := restart().seal.Status(t.Context()); st.State != seal.Unsealed {
		t.Fatalf("with credential: %+v", st)
	}
	if err := f.seal.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := restart().seal.Status(t.Context()); st.State != seal.Sealed || !st.Hold {
		t.Fatalf("an explicit seal does not hold: %+v", st)
	}
	f.unseal(t)
	if st := restart().seal.Status(t.Context()); st.State != seal.Unsealed {
		t.Fatalf("the hold did not end: %+v", st)
	}
	if err := f.seal.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cred, bytes.Repeat([]byte{6}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	if st := restart().seal.Status(t.Context()); st.State != seal.Sealed || st.Reason == "" {
		t.Errorf("changed credential: %+v", st)
	}
	f.unseal(t)
}

// TestEveryFlippedByteIsFound flips bytes of every secret row, closed, and expects a typed error at unseal or at read.
func TestEveryFlippedByteIsFound(t *testing.T) {
	t.Parallel()
	f := initialized(t, nil)
	f.unseal(t)
	for i := range 3 {
		f.put(t, fmt.Sprintf("kv/%d", i), "value")
	}
	if err := f.seal.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for table, columns := range map[string][]string{
		"entries": {"path_hash", "key_id", "tag", "path_ct", "ct"}, "keys": {"id", "wrapped"}, "key_slots": {"pub", "wrapped_priv", "sealed_mek", "params"},
		"integrity_root": {"ct"}, "mounts": {"id"},
	} {
		for _, col := range columns {
			var n int
			edit(t, f, func(c *sql.DB) error {
				return c.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT length(%s) FROM %s LIMIT 1`, col, table)).Scan(&n)
			})
			for i := 0; i < n; i += max(1, n/6) {
				copyDB := filepath.Join(t.TempDir(), "c.db")
				if err := db.CopyFile(t.Context(), f.path, copyDB); err != nil {
					t.Fatal(err)
				}
				flip(t, copyDB, table, col, i)
				if err := readAll(t, copyDB); err == nil {
					t.Errorf("byte %d of %s.%s flipped and nothing said", i, table, col)
				} else if !fault.HasReason(err, "INTEGRITY") && !fault.HasReason(err, "WRONG_SECRET") {
					t.Errorf("byte %d of %s.%s: untyped %v", i, table, col, err)
				}
				tried++
			}
		}
	}
	if tried < 60 {
		t.Errorf("only %d bytes were tried", tried)
	}
}

func TestOfflineTamperingIsReported(t *testing.T) {
	t.Parallel()
	f := initialized(t, nil)
	f.unseal(t)
	for i := range 3 {
		f.put(t, fmt.Sprintf("kv/%d", i), "old")
	}
	if err := f.seal.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "old.db")
	if err := db.CopyFile(t.Context(), f.path, old); err != nil {
		t.Fatal(err)
	}
	f.unseal(t)
	f.put(t, "kv/0", "new")
	if err := f.seal.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, stmt := range map[string]string{
		"deleted row":  `DELETE FROM entries WHERE path_hash = (SELECT path_hash FROM entries LIMIT 1)`,
		"swapped rows": `UPDATE entries SET ct = (SELECT ct FROM entries ORDER BY path_hash DESC LIMIT 1), tag = (SELECT tag FROM entries ORDER BY path_hash DESC LIMIT 1) WHERE path_hash = (SELECT min(path_hash) FROM entries)`,
		"old rows":     `ATTACH '` + old + `' AS o; REPLACE INTO entries SELECT * FROM o.entries`,
		"old root":     `ATTACH '` + old + `' AS o; REPLACE INTO integrity_root SELECT * FROM o.integrity_root`,
		"renamed":      `UPDATE mounts SET name = 'other' WHERE name = 'pki'`,
		"slot removed": `DELETE FROM key_slots WHERE kind = 'recovery'`,
		"slot copied":  `INSERT INTO key_slots SELECT 'x' || id, kind, params, pub, wrapped_priv, sealed_mek, created_at, 0 FROM key_slots`,
		"root gone":    `DELETE FROM integrity_root`,
	} {
		copyDB := filepath.Join(t.TempDir(), "c.db")
		if err := db.CopyFile(t.Context(), f.path, copyDB); err != nil {
			t.Fatal(err)
		}
		exec(t, copyDB, stmt)
		if err := readAll(t, copyDB); !fault.HasReason(err, "INTEGRITY") {
			t.Errorf("%s: %v, want INTEGRITY", name, err)
		}
	}
}

func TestRemovedSlotOpensNothing(t *testing.T) {
	t.Parallel()
	f := initialized(t, bytes.Repeat([]byte{5}, 32))
	f.unseal(t)
	f.put(t, "a", "b")
	rows, err := f.seal.Slots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var credential keyslot.Row
	for _, r := range rows {
		if r.Kind == keyslot.Credential {
			credential = r
		}
		if r.Kind == keyslot.Recovery {
			if err := f.seal.RemoveSlot(t.Context(), r.ID); !fault.HasReason(err, "LAST_SLOT") {
				t.Errorf("the last recovery slot went: %v", err)
			}
		}
	}
	if err := f.seal.RemoveSlot(t.Context(), credential.ID); err != nil {
		t.Fatal(err)
	}
	f.put(t, "a", "c")
	if err := f.seal.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.unseal(t) // the password's slot was sealed anew
	if err := f.seal.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = f.db.Write(t.Context(), func(tx *db.Tx) error { return store.PutSlot(tx, credential) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.seal.Unseal(t.Context(), keyslot.Secret{Kind: keyslot.Credential, Value: bytes.Repeat([]byte{5}, 32)}, keyslot.Local); err == nil {
		t.Error("the removed slot opened the store")
	}
}

// TestSealUnderLoad seals and unseals while writers run; whatever was acknowledged must be readable.
func TestSealUnderLoad(t *testing.T) {
	t.Parallel()
	f := initialized(t, nil)
	f.unseal(t)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]string{}
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				path, val := fmt.Sprintf("w%d/%d", w, i%20), fmt.Sprint(i)
				err := f.seal.With(ctx, func(l *seal.Lease) error {
					return l.Barrier.Write(l.Ctx, func(tx *barrier.Tx) error {
						_, err := tx.Put(barrier.System, path, []byte(val))
						return err
					})
				})
				if err == nil {
					mu.Lock()
					acked[path] = val
					mu.Unlock()
				} else if !fault.HasReason(err, "SEALED") && !errors.Is(err, context.Canceled) {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	for range 12 {
		if err := f.seal.Seal(t.Context()); err != nil {
			t.Error(err)
		}
		f.unseal(t)
	}
	stop()
	wg.Wait()
	if err := f.seal.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.unseal(t)
	err := f.seal.With(t.Context(), func(l *seal.Lease) error {
		return l.Barrier.Read(l.Ctx, func(v *barrier.View) error {
			for path, want := range acked {
				got, _, err := v.Get(barrier.System, path)
				if err != nil {
					return err
				}
				var g, w int
				_, _ = fmt.Sscan(string(got), &g)
				_, _ = fmt.Sscan(want, &w)
				if g < w { // a later write may have been made and not acknowledged
					t.Errorf("%s = %q, acknowledged %q", path, got, want)
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoSecretLiesInTheFile(t *testing.T) {
	t.Parallel()
	f := initialized(t, nil)
	f.unseal(t)
	f.put(t, "canary-path-4711", "canary-value-4711")
	err := f.seal.With(t.Context(), func(l *seal.Lease) error {
		return l.Engines.Policy.Put(l.Ctx, policy.Rule{ID: "canary-rule-4711", Effect: "deny"})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(f.path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		for _, canary := range []string{"canary", "4711", string(password), f.code[:9]} {
			if bytes.Contains(b, []byte(canary)) {
				t.Errorf("%q lies in the database file%s", canary, suffix)
			}
		}
	}
}

// readAll opens a copy and reads every row.
func readAll(t *testing.T, path string) error {
	t.Helper()
	d, err := db.Open(t.Context(), db.Config{Path: path, Service: "metacrypt", Migrations: store.Migrations})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	s, err := seal.New(t.Context(), seal.Config{DB: d, Slots: keyslottest.Config(t, keyslot.Config{Store: &keyslottest.Store{}})})
	if err != nil {
		return err
	}
	if _, err := s.Unseal(t.Context(), keyslot.Secret{Kind: keyslot.Password, Value: password}, keyslot.Local); err != nil {
		return err
	}
	defer func() { _ = s.Stop(t.Context()) }()
	return s.With(t.Context(), func(l *seal.Lease) error {
		return l.Barrier.Read(l.Ctx, func(v *barrier.View) error {
			paths, err := v.List(barrier.System, "")
			if err != nil {
				return err
			}
			for _, p := range paths {
				if _, _, err := v.Get(barrier.System, p); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func edit(t *testing.T, f *fixture, fn func(*sql.DB) error) {
	t.Helper()
	editFile(t, f.path, fn)
}

func editFile(t *testing.T, path string, fn func(*sql.DB) error) {
	t.Helper()
	c, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	c.SetMaxOpenConns(1)
	defer func() { _ = c.Close() }()
	if err := fn(c); err != nil {
		t.Fatal(err)
	}
}

func exec(t *testing.T, path, stmt string) {
	t.Helper()
	editFile(t, path, func(c *sql.DB) error {
		_, err := c.ExecContext(t.Context(), stmt)
		return err
	})
}

func flip(t *testing.T, path, table, col string, i int) {
	t.Helper()
	editFile(t, path, func(c *sql.DB) error {
		var b []byte
		if err := c.QueryRowContext(t.Context(), fmt.Sprintf(`SELECT %s FROM %s LIMIT 1`, col, table)).Scan(&b); err != nil {
			return err
		}
		was := bytes.Clone(b)
		b[i] ^= 0x10
		if _, err := c.ExecContext(t.Context(), `PRAGMA foreign_keys = 0`); err != nil {
			return err
		}
		_, err := c.ExecContext(t.Context(), fmt.Sprintf(`UPDATE %s SET %s = ? WHERE %s = ?`, table, col, col), b, was)
		return err
	})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func csr(t *testing.T, key *ecdsa.PrivateKey, names ...string) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
