package server_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/grpcserver"
	"metacircular.net/mcdsl/mctest"

	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/directory"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/rpc"
	"metacircular.net/mcias/internal/store"
)

func openDB(dir string) (*db.DB, error) {
	return db.Open(context.Background(), db.Config{Path: filepath.Join(dir, "mcias.db"), Service: "mcias", Migrations: store.Migrations()})
}

type deaf struct{}

func (deaf) Flush(context.Context) {}

func dir(d *db.DB) *directory.Directory {
	return directory.New(directory.Config{DB: d, Teller: deaf{}, Killer: revoke.Killer{Life: 1 << 40, Session: 1 << 40}, Issuer: "https://mcias.mc.localhost", Domain: "mc.localhost"})
}

// TestKilledWritersLoseNothing: accounts, role changes, revocations and their audit records that were acknowledged are
// there after kill -9, and the chain is whole.
func TestKilledWritersLoseNothing(t *testing.T) {
	kills := 4
	if os.Getenv("MC_SOAK") != "" {
		kills = 200
	}
	by := audit.By{Name: "test", Admin: true}
	mctest.Crash(t, mctest.CrashTest{Kills: kills,
		Child: func(folder string, acked func(string)) error {
			d, err := openDB(folder)
			if err != nil {
				return err
			}
			x, ctx := dir(d), context.Background()
			if err := x.Load(ctx); err != nil {
				return err
			}
			for i := 0; ; i++ {
				name := fmt.Sprintf("u%d-%d", os.Getpid(), i)
				if _, err := x.Create(ctx, by, directory.NewAccount{Name: name, Roles: []string{"guest"}}); err != nil {
					return err
				}
				acked(name)
				if _, err := x.AddRole(ctx, by, name, "user"); err != nil {
					return err
				}
				acked(name + " user")
				if _, _, err := x.SetStatus(ctx, by, name, "disabled", false); err != nil {
					return err
				}
				acked(name + " disabled")
			}
		},
		Check: func(t *testing.T, folder string, acked []string) {
			d, err := openDB(folder)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			res, err := audit.Verify(t.Context(), d)
			if err != nil || !res.OK {
				t.Errorf("audit after a kill: %+v, %v", res, err)
			}
			err = d.Read(t.Context(), func(v *db.View) error {
				for _, what := range acked {
					var name, then string
					_, _ = fmt.Sscan(what, &name, &then)
					a, err := store.AccountByName(v, name)
					if err != nil {
						t.Errorf("%s: %v", what, err)
						continue
					}
					if then == "user" && !a.HasRole("user") || then == "disabled" && a.Status != "disabled" {
						t.Errorf("%s is lost: %+v", what, a)
					}
					if then == "disabled" {
						var n int
						if err := v.QueryRow(`SELECT count(*) FROM revocation WHERE kind = 'sub' AND value = ? AND bound = ?`, a.ID, a.Epoch).Scan(&n); err != nil || n != 1 {
							t.Errorf("%s: its revocation: %d, %v", what, n, err)
						}
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}})
}

func TestAuditFindsAnyFlip(t *testing.T) {
	t.Parallel()
	d, err := openDB(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	x := dir(d)
	for i := range 5 {
		if _, err := x.Create(t.Context(), audit.By{Name: "test"}, directory.NewAccount{Name: fmt.Sprintf("u%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	verify := func() audit.Result {
		t.Helper()
		res, err := audit.Verify(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := verify(); !res.OK || res.Records != 5 {
		t.Fatalf("Verify = %+v", res)
	}
	exec := func(q string, args ...any) {
		t.Helper()
		if err := d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec(q, args...); return err }); err != nil {
			t.Fatal(err)
		}
	}
	for _, col := range []string{"ts", "actor", "action", "target", "ip", "outcome", "detail"} {
		// The last character changes; ts by one.
		change := fmt.Sprintf("substr(%[1]s, 1, length(%[1]s) - 1) || 'z'", col)
		if col == "ts" {
			change = "ts + 1"
		}
		exec(`CREATE TABLE keep AS SELECT * FROM audit WHERE seq = 3`)
		exec(fmt.Sprintf(`UPDATE audit SET %s = %s WHERE seq = 3`, col, change))
		if res := verify(); res.OK || res.BadSeq != 3 {
			t.Errorf("%s changed: %+v, want record 3", col, res)
		}
		exec(fmt.Sprintf(`UPDATE audit SET %[1]s = (SELECT %[1]s FROM keep) WHERE seq = 3`, col))
		exec(`DROP TABLE keep`)
	}
	for _, col := range []string{"prev", "hash"} {
		exec(fmt.Sprintf(`CREATE TABLE keep AS SELECT %s AS v FROM audit WHERE seq = 3`, col))
		exec(fmt.Sprintf(`UPDATE audit SET %s = zeroblob(32) WHERE seq = 3`, col))
		if res := verify(); res.OK || res.BadSeq != 3 {
			t.Errorf("%s changed: %+v, want record 3", col, res)
		}
		exec(fmt.Sprintf(`UPDATE audit SET %s = (SELECT v FROM keep) WHERE seq = 3`, col))
		exec(`DROP TABLE keep`)
	}
	if res := verify(); !res.OK {
		t.Fatalf("put back: %+v", res)
	}
	exec(`DELETE FROM audit WHERE seq = 3`)
	if res := verify(); res.OK || res.BadSeq != 4 {
		t.Errorf("record 3 taken out: %+v, want 4 not to follow", res)
	}
}

// TestEveryMethodHasItsVerdict asks every method as everybody over gRPC and REST.
func TestEveryMethodHasItsVerdict(t *testing.T) {
	t.Parallel()
	s := rpc.New(rpc.Config{})
	mctest.Matrix(t, grpcserver.Config{Service: "mcias", Rules: auth.Map(rpc.Rules()), Register: s.Register, REST: rpc.REST()})
}
