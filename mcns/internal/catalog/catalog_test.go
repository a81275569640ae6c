package catalog_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcns/internal/catalog"
	"metacircular.net/mcns/internal/snapshot"
	"metacircular.net/mcns/internal/store"
)

type fixture struct {
	dir string
	db  *db.DB
	cat *catalog.Catalog
}

func open(t *testing.T, dir string) *fixture {
	t.Helper()
	f := &fixture{dir: dir}
	f.cat, _ = catalog.New(catalog.Config{Snapshot: filepath.Join(dir, "snapshot.bin"), Clock: clock.NewFake(time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC))})
	var err error
	if f.db, err = db.Open(t.Context(), db.Config{Path: filepath.Join(dir, "mcns.db"), Service: "mcns", Migrations: store.Migrations()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.db.Close() })
	if err := f.cat.Attach(t.Context(), f.db); err != nil {
		t.Fatal(err)
	}
	return f
}

func withZone(t *testing.T) *fixture {
	t.Helper()
	f := open(t, t.TempDir())
	if _, _, err := f.cat.CreateZone(t.Context(), catalog.NewZone{Name: "z.", NameServers: []string{"ns.z."}, Owner: "operator"}); err != nil {
		t.Fatal(err)
	}
	return f
}

func add(name, text string) catalog.Op {
	return catalog.Op{Kind: catalog.Add, Zone: "z.", Name: name + ".z.", Type: dns.TypeA, Texts: []string{text}, Owner: "operator"}
}

func (f *fixture) apply(t *testing.T, w catalog.Write) (*catalog.Result, error) {
	t.Helper()
	return f.cat.Apply(t.Context(), w)
}

func (f *fixture) texts(name string) (out []string) {
	z := f.cat.View().Get("z.")
	if z == nil {
		return nil
	}
	for _, r := range z.Zone.Records {
		if r.Name == name+".z." {
			out = append(out, r.Text)
		}
	}
	return out
}

func TestWritesAreWholeAndVisible(t *testing.T) {
	t.Parallel()
	f := withZone(t)
	before := f.cat.View().Get("z.").SOA.Serial
	res, err := f.apply(t, catalog.Write{Actor: "a", Ops: []catalog.Op{add("x", "10.0.0.1"), add("y", "10.0.0.2")}})
	if err != nil || len(res.Sets) != 1 || len(res.Records) != 2 || res.Records[0].ID == 0 {
		t.Fatalf("Apply = %+v, %v", res, err)
	}
	if s := f.cat.View().Get("z.").SOA.Serial; s != before+1 || fmt.Sprint(f.texts("x")) != "[10.0.0.1]" {
		t.Errorf("serial %d, x %v", s, f.texts("x"))
	}
	// One bad operation takes all back.
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{add("w", "10.0.0.9"), {Kind: catalog.Add, Zone: "z.", Name: "x.z.", Type: dns.TypeCNAME, Texts: []string{"y"}, Owner: "operator"}}}); err == nil || f.texts("w") != nil {
		t.Errorf("half a write: %v, %v", err, f.texts("w"))
	}
	// Nothing changed = no change set.
	res, err = f.apply(t, catalog.Write{Ops: []catalog.Op{{Kind: catalog.Set, Zone: "z.", Name: "x.z.", Type: dns.TypeA, Texts: []string{"10.0.0.1"}, Owner: "operator"}}})
	if err != nil || len(res.Sets) != 0 {
		t.Errorf("empty write: %+v, %v", res, err)
	}
	// A wrong serial is a conflict.
	if _, err := f.apply(t, catalog.Write{Expected: map[string]uint32{"z.": 1}, Ops: []catalog.Op{add("v", "10.0.0.1")}}); !fault.HasReason(err, "STALE_SERIAL") {
		t.Errorf("stale: %v", err)
	}
	// A dry run changes nothing and shows the difference.
	res, err = f.apply(t, catalog.Write{DryRun: true, Ops: []catalog.Op{add("v", "10.0.0.1")}})
	if err != nil || len(res.Sets) != 1 || len(res.Sets[0].Changes) != 1 || f.texts("v") != nil {
		t.Errorf("dry run: %+v, %v", res, err)
	}
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{{Kind: catalog.Add, Zone: "none.", Name: "a.none.", Type: dns.TypeA, Texts: []string{"10.0.0.1"}}}}); !fault.Is(err, fault.NotFound) {
		t.Errorf("no zone: %v", err)
	}
}

func TestOwners(t *testing.T) {
	t.Parallel()
	f := withZone(t)
	res, err := f.apply(t, catalog.Write{Ops: []catalog.Op{add("x", "10.0.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	id := res.Records[0].ID
	other := catalog.Op{Kind: catalog.Delete, Zone: "z.", ID: id, Owner: "registry:n"}
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{other}}); !fault.HasReason(err, "FOREIGN_OWNER") {
		t.Errorf("foreign delete: %v", err)
	}
	// Two owners share a set; each removes only its own.
	own := catalog.Op{Kind: catalog.Set, Zone: "z.", Name: "x.z.", Type: dns.TypeA, Texts: []string{"10.0.0.2"}, Owner: "registry:n", TTL: 60}
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{own}}); err != nil || len(f.texts("x")) != 2 {
		t.Fatalf("shared set: %v, %v", err, f.texts("x"))
	}
	own.Texts = nil
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{own}}); err != nil || fmt.Sprint(f.texts("x")) != "[10.0.0.1]" {
		t.Errorf("after removal: %v, %v", err, f.texts("x"))
	}
	other.Take = true
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{other}}); err != nil || f.texts("x") != nil {
		t.Errorf("take: %v, %v", err, f.texts("x"))
	}
}

// What is served survives: without the database, with an older one, and a zone made again.
func TestSnapshotAndSerials(t *testing.T) {
	t.Parallel()
	f := withZone(t)
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{add("x", "10.0.0.1")}}); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(f.dir, "old.db")
	if err := f.db.Snapshot(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if _, err := f.apply(t, catalog.Write{Ops: []catalog.Op{add("y", "10.0.0.1")}}); err != nil {
		t.Fatal(err)
	}
	served := f.cat.View().Get("z.").SOA.Serial

	alone, found := catalog.New(catalog.Config{Snapshot: filepath.Join(f.dir, "snapshot.bin")})
	if !found || alone.View().Get("z.") == nil || alone.View().Get("z.").SOA.Serial != served {
		t.Fatalf("from the snapshot alone: %v, %v", found, alone.View().Get("z."))
	}
	if _, err := alone.Apply(t.Context(), catalog.Write{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a write without database: %v", err)
	}
	// The database goes back; the serial does not.
	d, err := db.Open(t.Context(), db.Config{Path: old, Service: "mcns", Migrations: store.Migrations(), Lock: &db.Lock{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := alone.Attach(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if z := alone.View().Get("z."); z.SOA.Serial <= served || z.Nodes["y.z."] != nil {
		t.Errorf("after going back: serial %d, served was %d", z.SOA.Serial, served)
	}
	last := alone.View().Get("z.").SOA.Serial
	if _, err := alone.DeleteZone(t.Context(), "z.", "a", "api", ""); err != nil {
		t.Fatal(err)
	}
	z, _, err := alone.CreateZone(t.Context(), catalog.NewZone{Name: "z.", NameServers: []string{"ns.z."}, Owner: "operator"})
	if err != nil || z.Serial <= last {
		t.Errorf("made again at serial %d after %d, %v", z.Serial, last, err)
	}
	sets, err := alone.Changes(t.Context(), "z.", 0, 100)
	if err != nil || len(sets) < 4 {
		t.Errorf("changes: %d, %v", len(sets), err)
	}
}

func TestConcurrentWrites(t *testing.T) {
	t.Parallel()
	f := withZone(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 10 {
				if _, err := f.cat.Apply(t.Context(), catalog.Write{Ops: []catalog.Op{add(fmt.Sprintf("h%d-%d", i, j), "10.0.0.1")}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := f.cat.View().Get("z.").Count; n != 41 {
		t.Errorf("%d records, want 41", n)
	}
}

func TestSnapshotFile(t *testing.T) {
	t.Parallel()
	p := filepath.Join(t.TempDir(), "s")
	for i := range 2 {
		if err := snapshot.Write(p, &snapshot.State{Gone: map[string]uint32{"z.": uint32(i)}}); err != nil { //nolint:gosec // 0 and 1
			t.Fatal(err)
		}
	}
	s, err := snapshot.Read(p)
	if err != nil || s.Gone["z."] != 1 {
		t.Fatalf("Read = %+v, %v", s, err)
	}
	for _, b := range [][]byte{nil, []byte("MCNSNAP1"), []byte("MCNSNAP1 and something else that is long enough to hold a digest")} {
		if _, err := snapshot.Parse(b); !fault.HasReason(err, "BAD_SNAPSHOT") {
			t.Errorf("Parse(%q) = %v", b, err)
		}
	}
	if _, err := snapshot.Read(filepath.Join(t.TempDir(), "none")); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("absent: %v", err)
	}
}
