package db_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

var schema = fstest.MapFS{"migrations/0001_first.sql": {Data: []byte(`
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, body BLOB) STRICT;
CREATE TABLE part(id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item(id)) STRICT;`)}}

func open(t *testing.T, cfg db.Config) *db.DB {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "sample.db")
	}
	if cfg.Service == "" {
		cfg.Service = "sample"
	}
	if cfg.Migrations == nil {
		cfg.Migrations = schema
	}
	d, err := db.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func insert(name string) func(*db.Tx) error {
	return func(tx *db.Tx) error {
		_, err := tx.Exec("INSERT INTO item(name) VALUES (?)", name)
		return err
	}
}

func names(t *testing.T, d *db.DB) string {
	t.Helper()
	var out []string
	err := d.Read(context.Background(), func(v *db.View) error {
		rows, err := v.Query("SELECT name FROM item ORDER BY name")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n string
			if err := rows.Scan(&n); err != nil {
				return err
			}
			out = append(out, n)
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestWriteAndRead(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	if err := d.Write(t.Context(), insert("a")); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		if err := insert("b")(tx); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("Write = %v, want boom", err)
	}
	err = d.Write(t.Context(), insert("a"))
	if !db.IsUnique(err) {
		t.Errorf("duplicate: %v", err)
	}
	if got := names(t, d); got != "a" {
		t.Errorf("items = %q, want a", got)
	}
	err = d.Read(t.Context(), func(v *db.View) error {
		var n int
		return v.QueryRow("INSERT INTO item(name) VALUES ('x') RETURNING id").Scan(&n)
	})
	if err == nil || names(t, d) != "a" {
		t.Errorf("a view wrote: %v", err)
	}
}

func TestConstraintLeavesTheTransactionStanding(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		if err := insert("a")(tx); err != nil {
			return err
		}
		if err := insert("a")(tx); !db.IsUnique(err) {
			t.Errorf("duplicate: %v", err)
		}
		return insert("b")(tx)
	})
	if err != nil || names(t, d) != "a b" {
		t.Errorf("Write = %v, items %q", err, names(t, d))
	}
}

func TestRollbackConflictIsSticky(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		if err := insert("a")(tx); err != nil {
			return err
		}
		_, _ = tx.Exec("INSERT OR ROLLBACK INTO item(name) VALUES ('a')")
		_ = insert("stray")(tx)
		return nil
	})
	if err == nil || names(t, d) != "" {
		t.Errorf("Write = %v, items %q", err, names(t, d))
	}
	if err := d.Write(t.Context(), insert("after")); err != nil {
		t.Error(err)
	}
}

func TestWriteInsideWriteFailsAtOnce(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	ctx := t.Context()
	for name, inner := range map[string]func(tx *db.Tx) context.Context{
		"outer context":       func(*db.Tx) context.Context { return ctx },
		"transaction context": func(tx *db.Tx) context.Context { return tx.Context() },
	} {
		err := d.Write(ctx, func(tx *db.Tx) error { return d.Write(inner(tx), insert("x")) })
		if err == nil || !strings.Contains(err.Error(), "Write inside Write") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A statement that is interrupted leaves no trace, whatever the function does next.
func TestInterruptedStatementLeavesNoTrace(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	err := d.Write(ctx, func(tx *db.Tx) error {
		if err := insert("before")(tx); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() {})
		defer stop()
		go cancel()
		_, err := tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 50000000)
			INSERT INTO item(name) SELECT 'n' || i FROM n`)
		if err == nil {
			t.Error("the long statement was not interrupted")
		}
		_ = insert("after")(tx)
		return nil
	})
	if err == nil {
		t.Error("Write succeeded after an interruption")
	}
	if got := names(t, d); got != "" {
		t.Errorf("items = %q, want none", got)
	}
	if err := d.Write(t.Context(), insert("ok")); err != nil {
		t.Errorf("the next write: %v", err)
	}
}

// Eight writers and four readers: no lock error, everything there.
func TestManyWritersAndReaders(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	const writers, each = 8, 50
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := d.Read(t.Context(), func(v *db.View) error {
					var a, b int
					if err := v.QueryRow("SELECT count(*) FROM item").Scan(&a); err != nil {
						return err
					}
					if err := v.QueryRow("SELECT count(*) FROM item").Scan(&b); err != nil {
						return err
					}
					if a != b {
						return fmt.Errorf("one view saw %d, then %d", a, b)
					}
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			for i := range each {
				if err := d.Write(t.Context(), insert(fmt.Sprintf("%d-%d", w, i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	close(stop)
	wg.Wait()
	if got := len(strings.Fields(names(t, d))); got != writers*each {
		t.Errorf("%d items, want %d", got, writers*each)
	}
}

// grouped starts a leader that holds the writer until the others wait, then lets all go.
func grouped(t *testing.T, d *db.DB, leader func(*db.Tx) error, members []func(context.Context) error) (lead error, out []error) {
	t.Helper()
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	wg.Go(func() {
		lead = d.Write(t.Context(), func(tx *db.Tx) error {
			once.Do(func() {
				close(started)
				<-release
			})
			return leader(tx)
		})
	})
	<-started
	out = make([]error, len(members))
	for i, m := range members {
		wg.Go(func() { out[i] = m(t.Context()) })
		for db.Waiting(d) != i+1 {
			time.Sleep(time.Millisecond) // polling an inner state; nothing depends on how long it takes
		}
	}
	close(release)
	wg.Wait()
	return lead, out
}

func TestGroupFailureOfOneLeavesTheOthers(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	boom := errors.New("boom")
	panicked := false
	var gone context.CancelFunc
	lead, out := grouped(t, d, insert("leader"), []func(context.Context) error{
		func(ctx context.Context) error { return d.Write(ctx, insert("m0")) },
		func(ctx context.Context) error {
			return d.Write(ctx, func(tx *db.Tx) error { _ = insert("failed")(tx); return boom })
		},
		func(ctx context.Context) (err error) {
			defer func() { panicked = recover() != nil }()
			return d.Write(ctx, func(tx *db.Tx) error { _ = insert("panicked")(tx); panic("p") })
		},
		func(ctx context.Context) error {
			ctx, gone = context.WithCancel(ctx)
			return d.Write(ctx, func(tx *db.Tx) error { gone(); return insert("cancelled-late")(tx) })
		},
		func(ctx context.Context) error { return d.Write(ctx, insert("m4")) },
	})
	if lead != nil || out[0] != nil || !errors.Is(out[1], boom) || out[4] != nil {
		t.Errorf("leader %v, members %v", lead, out)
	}
	if !panicked {
		t.Error("the panic did not reach its caller")
	}
	// In a group it is not interrupted. On a slow machine the group may have been full before its turn; then it ran
	// alone, where its own cancellation holds. Either way what it was told is what is on disk.
	want := "cancelled-late leader m0 m4"
	if errors.Is(out[3], context.Canceled) {
		want = "leader m0 m4"
	} else if out[3] != nil {
		t.Errorf("the member cancelled late got %v", out[3])
	}
	if got := names(t, d); got != want {
		t.Errorf("items = %q, want %q", got, want)
	}
}

// When one member's statement makes SQLite roll everything back, the innocent run again.
func TestGroupAutomaticRollback(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	var runs atomic.Int32
	lead, out := grouped(t, d, func(tx *db.Tx) error { runs.Add(1); return insert("leader")(tx) },
		[]func(context.Context) error{
			func(ctx context.Context) error { return d.Write(ctx, insert("m0")) },
			func(ctx context.Context) error {
				return d.Write(ctx, func(tx *db.Tx) error {
					_ = insert("guilty")(tx)
					_, _ = tx.Exec("INSERT OR ROLLBACK INTO item(name) VALUES ('guilty')")
					return nil
				})
			},
			func(ctx context.Context) error { return d.Write(ctx, insert("m2")) },
		})
	if lead != nil || out[0] != nil || out[1] == nil || out[2] != nil {
		t.Errorf("leader %v, members %v", lead, out)
	}
	if got, want := names(t, d), "leader m0 m2"; got != want {
		t.Errorf("items = %q, want %q", got, want)
	}
	if runs.Load() != 2 {
		t.Errorf("the leader ran %d times, want 2", runs.Load())
	}
}

func TestGivingUpWhileQueued(t *testing.T) {
	t.Parallel()
	d := open(t, db.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, out := grouped(t, d, func(tx *db.Tx) error { cancel(); return insert("leader")(tx) }, []func(context.Context) error{
		func(context.Context) error { return d.Write(ctx, insert("quitter")) },
	})
	if out[0] == nil && !strings.Contains(names(t, d), "quitter") {
		t.Error("acknowledged but absent")
	}
	if out[0] != nil && strings.Contains(names(t, d), "quitter") {
		t.Error("refused but there")
	}
}

func TestFilesArePrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := filepath.Join(dir, "sample.db")
	d := open(t, db.Config{Path: old})
	if err := d.Write(t.Context(), insert("a")); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		st, err := os.Stat(old + suffix)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", suffix, st.Mode(), err)
		}
	}
	st, err := os.Stat(dir)
	if err != nil || st.Mode().Perm()&0o027 != 0 {
		t.Errorf("folder: %v, %v", st.Mode(), err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := filepath.Join(dir, "sample.db")
	d, err := db.Open(t.Context(), db.Config{Path: p, Service: "sample", Migrations: schema, Version: "1.6.0"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Open(t.Context(), db.Config{Path: p, Service: "sample", Migrations: schema})
	if !fault.Is(err, fault.Conflict) || !strings.Contains(err.Error(), fmt.Sprint("pid ", os.Getpid())) {
		t.Errorf("second server: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), insert("x")); !fault.Is(err, fault.Unavailable) {
		t.Errorf("write after close: %v", err)
	}
	_, err = db.Open(t.Context(), db.Config{Path: p, Service: "other", Migrations: schema})
	if !fault.HasReason(err, "FOREIGN_DATABASE") {
		t.Errorf("another service's database: %v", err)
	}
	_, err = db.Open(t.Context(), db.Config{Path: p, Service: "sample", Migrations: fstest.MapFS{}, Version: "1.5.2"})
	if !fault.HasReason(err, "NEWER_SCHEMA") || !strings.Contains(err.Error(), "schema 1 written by sample 1.6.0; this is 1.5.2 and knows 0") {
		t.Errorf("newer schema: %v", err)
	}
	_, err = db.Open(t.Context(), db.Config{Path: p, Service: "sample",
		Migrations: fstest.MapFS{"0001_first.sql": {Data: []byte("SELECT 1")}}})
	if !fault.HasReason(err, "CHANGED_MIGRATION") {
		t.Errorf("changed migration: %v", err)
	}
	_, err = db.Open(t.Context(), db.Config{Path: filepath.Join(dir, "none.db"), Service: "sample", MustExist: true})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("MustExist: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(p, 995, 0); err != nil {
			t.Fatal(err)
		}
		_, err = db.Open(t.Context(), db.Config{Path: p, Service: "sample", Migrations: schema})
		if !fault.HasReason(err, "FOREIGN_OWNER") || !strings.Contains(err.Error(), "belongs to uid 995, sample runs as 0") {
			t.Errorf("foreign owner: %v", err)
		}
	}
}

func TestDamageNamesTheSnapshot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := filepath.Join(dir, "sample.db")
	d, err := db.Open(t.Context(), db.Config{Path: p, Service: "sample", Migrations: schema})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(strings.Repeat("junk", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "backups"), 0o750); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"sample-1.tar.zst", "sample-1.tar.zst.verified", "sample-2.tar.zst"} {
		if err := os.WriteFile(filepath.Join(dir, "backups", n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err = db.Open(t.Context(), db.Config{Path: p, Service: "sample", Migrations: schema})
	if !fault.HasReason(err, "DAMAGED") || !strings.HasSuffix(fault.From(err).Next, "sample-1.tar.zst") {
		t.Errorf("damaged: %v, next %q", err, fault.From(err).Next)
	}
}

func TestMigrations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := filepath.Join(dir, "sample.db")
	ctx := t.Context()
	cfg := db.Config{Path: p, Service: "sample", Migrations: schema}
	d, err := db.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Write(ctx, insert("kept")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	first := schema["migrations/0001_first.sql"]
	bad := cfg
	bad.Migrations = fstest.MapFS{"0001_first.sql": first,
		"0002_bad.sql": {Data: []byte("ALTER TABLE item ADD COLUMN n INTEGER; INSERT INTO nowhere VALUES (1);")}}
	if _, err := db.Open(ctx, bad); err == nil || !strings.Contains(err.Error(), "0002_bad") {
		t.Fatalf("failing migration: %v", err)
	}
	copies, err := filepath.Glob(filepath.Join(dir, "backups", "pre-1-2-*.db"))
	if err != nil || len(copies) != 1 {
		t.Fatalf("copies before migration: %v, %v", copies, err)
	}
	if info, err := db.Inspect(ctx, copies[0]); err != nil || info.Schema != 1 || info.Rows["item"] != 1 {
		t.Errorf("copy: %+v, %v", info, err)
	}
	if err := os.Remove(copies[0]); err != nil {
		t.Fatal(err)
	}
	good := cfg
	good.Migrations = fstest.MapFS{"0001_first.sql": first,
		"0002_rebuild.sql": {Data: []byte("-- foreign_keys: off\nCREATE TABLE item2(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;" +
			"INSERT INTO item2 SELECT id, name FROM item; DROP TABLE item; ALTER TABLE item2 RENAME TO item;")}}
	good.Steps = map[int]db.Step{3: {Name: "upper", Run: func(tx *db.Tx) error {
		_, err := tx.Exec("UPDATE item SET name = upper(name)")
		return err
	}}}
	d = open(t, good)
	if got := names(t, d); got != "KEPT" || d.Schema() != 3 || d.ID() == "" {
		t.Errorf("after migration: %q, schema %d, id %q", got, d.Schema(), d.ID())
	}
	var on int
	if err := d.Write(ctx, func(tx *db.Tx) error { return tx.QueryRow("PRAGMA foreign_keys").Scan(&on) }); err != nil || on != 1 {
		t.Errorf("foreign_keys = %d after a rebuild, %v", on, err)
	}
}

func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	d := open(t, db.Config{Path: filepath.Join(dir, "sample.db")})
	if err := d.Write(t.Context(), insert("first")); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	_ = os.WriteFile(ballast, make([]byte, 2<<20), 0o600) // fails when full: that is the point
	big := make([]byte, 200<<10)
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		err = d.Write(t.Context(), func(tx *db.Tx) error {
			if err := insert(fmt.Sprint("full-", i))(tx); err != nil {
				return err
			}
			_, err := tx.Exec("UPDATE item SET body = ? WHERE name = ?", big, fmt.Sprint("full-", i))
			_ = insert("stray")(tx)
			return err
		})
		if err == nil {
			continue
		}
		if strings.Contains(names(t, d), fmt.Sprint("full-", i)) || strings.Contains(names(t, d), "stray") {
			t.Error("a write that failed left a trace")
		}
	}
	if !fault.Is(err, fault.Exhausted) {
		t.Fatalf("on a full disk: %v, want Exhausted", err)
	}
	if !strings.Contains(names(t, d), "first") {
		t.Error("reading failed on a full disk")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := d.Write(t.Context(), insert("later")); err != nil {
		t.Errorf("after space was freed: %v", err)
	}
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	d, err := db.Open(ctx, db.Config{Path: filepath.Join(dir, "sample.db"), Service: "sample", Migrations: schema})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer d.Close()
	err = d.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec("INSERT INTO item(name) VALUES (?)", "hammer")
		return err
	})
	var n int
	if err == nil {
		err = d.Read(ctx, func(v *db.View) error { return v.QueryRow("SELECT count(*) FROM item").Scan(&n) })
	}
	fmt.Println(n, err)
	// Output: 1 <nil>
}
