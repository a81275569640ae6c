package catalog_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/mctest"

	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/store"
)

// kill -9 during concurrent writes: every acknowledged change is in the database and in the snapshot file, and no
// served serial goes back.
func TestKillDuringWrites(t *testing.T) {
	kills := 4
	if os.Getenv("MC_SOAK") == "1" {
		kills = 100
	}
	openAll := func(ctx context.Context, dir string) (*catalog.Catalog, *db.DB, error) {
		cat, _ := catalog.New(catalog.Config{Snapshot: filepath.Join(dir, "snapshot.bin")})
		d, err := db.Open(ctx, db.Config{Path: filepath.Join(dir, "mcns.db"), Service: "mcns", Migrations: store.Migrations()})
		if err != nil {
			return nil, nil, err
		}
		return cat, d, cat.Attach(ctx, d)
	}
	mctest.Crash(t, mctest.CrashTest{Kills: kills,
		Child: func(dir string, acked func(string)) error {
			ctx := context.Background()
			cat, _, err := openAll(ctx, dir)
			if err != nil {
				return err
			}
			_, _, err = cat.CreateZone(ctx, catalog.NewZone{Name: "z.", NameServers: []string{"ns.z."}, Owner: "operator"})
			if err != nil && !fault.Is(err, fault.Exists) {
				return err
			}
			start := cat.View().Get("z.").Count
			var mu sync.Mutex
			var wg sync.WaitGroup
			errs := make(chan error, 4)
			for w := range 4 {
				wg.Go(func() {
					for i := 0; ; i++ {
						name := fmt.Sprintf("h%d-%d-%d", start, w, i)
						res, err := cat.Apply(ctx, catalog.Write{Ops: []catalog.Op{add(name, "10.0.0.1")}})
						if err != nil {
							errs <- err
							return
						}
						mu.Lock()
						acked(fmt.Sprintf("%s %d", name, res.Sets[0].Serial))
						mu.Unlock()
					}
				})
			}
			return <-errs
		},
		Check: func(t *testing.T, dir string, acked []string) {
			served, found := catalog.New(catalog.Config{Snapshot: filepath.Join(dir, "snapshot.bin")})
			if !found {
				t.Error("no snapshot")
			}
			cat, d, err := openAll(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			for what, c := range map[string]*catalog.Catalog{"snapshot": served, "database": cat} {
				z := c.View().Get("z.")
				if z == nil {
					t.Fatalf("%s: no zone", what)
				}
				for _, line := range acked {
					name, serial, _ := strings.Cut(line, " ")
					n, err := strconv.ParseUint(serial, 10, 32)
					if err != nil {
						t.Fatal(err)
					}
					if z.Nodes[name+".z."] == nil || z.SOA.Serial < uint32(n) {
						t.Errorf("%s: %s at serial %d was acknowledged; serial is %d", what, name, n, z.SOA.Serial)
					}
				}
			}
		}})
}
