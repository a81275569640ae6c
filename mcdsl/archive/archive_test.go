package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"metacircular.net/mcdsl/archive"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

var schema = fstest.MapFS{"0001_a.sql": {Data: []byte("CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT;")}}

// service makes a folder with a database of n rows, files and things that stay out.
func service(t testing.TB, n int) archive.Source {
	t.Helper()
	dir := t.TempDir()
	ctx := context.Background()
	d, err := db.Open(ctx, db.Config{Path: filepath.Join(dir, "sample.db"), Service: "sample", Migrations: schema, Version: "1.0"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := d.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec("INSERT INTO item(name) VALUES (?)", fmt.Sprint(i))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{"sample.toml": "[server]\n", "certs/sample.pem": "PEM", "keys/private": "secret", "run/x": "no"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return archive.Source{Service: "sample", Version: "1.0", Dir: dir, Databases: []string{"sample.db"},
		Exclude: func(rel string) bool { return rel == "keys" }}
}

func count(t *testing.T, dir string) int64 {
	t.Helper()
	info, err := db.Inspect(t.Context(), filepath.Join(dir, "sample.db"))
	if err != nil {
		t.Fatal(err)
	}
	return info.Rows["item"]
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	src := service(t, 5)
	name, m, err := archive.Create(t.Context(), src, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Files) != 3 {
		t.Errorf("files = %v, want database, toml, certificate", m.Files)
	}
	if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("snapshot: %v, %v", st.Mode(), err)
	}
	if _, err := archive.VerifyAndMark(t.Context(), name, archive.Expect{Service: "sample", Schemas: map[string]int{"sample.db": 1}}); err != nil {
		t.Fatal(err)
	}
	other := service(t, 2)
	var hooked int
	_, before, err := archive.Restore(t.Context(), name, archive.RestoreOptions{Target: other, OnRestore: func(context.Context, string) error { hooked++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if got := count(t, other.Dir); got != 5 || hooked != 1 {
		t.Errorf("after restore: %d rows, hook ran %d times", got, hooked)
	}
	if got := count(t, before); got != 2 {
		t.Errorf("the old data has %d rows, want 2", got)
	}
	if _, err := os.Stat(filepath.Join(other.Dir, "keys/private")); err != nil {
		t.Errorf("an excluded file was touched: %v", err)
	}
	list, err := archive.List(filepath.Dir(name), "sample")
	if err != nil || len(list) != 1 || list[0].Verified.IsZero() {
		t.Errorf("List = %v, %v", list, err)
	}
	if out, err := exec.Command("zstd", "-t", name).CombinedOutput(); err != nil && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("zstd -t: %v\n%s", err, out)
	}
}

func TestVerifyFindsEveryDamage(t *testing.T) {
	t.Parallel()
	name, _, err := archive.Create(t.Context(), service(t, 1), "")
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	check := func(what string, b []byte) {
		p := filepath.Join(dir, "x.tar.zst")
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Verify(t.Context(), p, archive.Expect{}); !fault.HasReason(err, "BAD_SNAPSHOT") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := 0; i < len(good); i += 1 + len(good)/97 {
		b := bytes.Clone(good)
		b[i] ^= 1
		check(fmt.Sprint("flip at ", i), b)
	}
	check("flip at the end", append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1))
	check("cut", good[:len(good)-1])
	check("cut in half", good[:len(good)/2])
	check("append", append(bytes.Clone(good), 0))
	check("empty", nil)
}

// forge makes an archive with a right trailer round any tar.
func forge(t testing.TB, m archive.Manifest, entries ...*tar.Header) string {
	t.Helper()
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(z)
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := tw.WriteHeader(&tar.Header{Name: "manifest.json", Size: int64(len(body)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := tw.Write(body); err != nil {
		t.Fatal(err)
	}
	for _, h := range entries {
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return seal(t, buf.Bytes())
}

func seal(t testing.TB, body []byte) string {
	h := sha256.Sum256(body)
	out := binary.LittleEndian.AppendUint32(bytes.Clone(body), 0x184D2A50)
	out = binary.LittleEndian.AppendUint32(out, 40)
	out = append(append(out, "MCSHA256"...), h[:]...)
	p := filepath.Join(t.TempDir(), "forged.tar.zst")
	if err := os.WriteFile(p, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	zero := fmt.Sprintf("%x", sha256.Sum256(nil))
	file := func(p string) archive.Manifest {
		return archive.Manifest{Format: 1, Service: "sample", Files: []archive.File{{Path: p, Mode: 0o600, SHA256: zero}}}
	}
	reg := func(n string, size int64) *tar.Header {
		return &tar.Header{Name: n, Size: size, Mode: 0o600, Typeflag: tar.TypeReg}
	}
	big := file("a")
	big.Files[0].Size = 1 << 60
	newer := archive.Manifest{Format: 1, Service: "sample", Files: file("sample.db").Files, Databases: []archive.Database{{Path: "sample.db", Schema: 9}}}
	other := file("a")
	other.Service = "other"
	for name, p := range map[string]string{
		"dots":           forge(t, file("../x"), reg("../x", 0)),
		"absolute":       forge(t, file("/etc/x"), reg("/etc/x", 0)),
		"link":           forge(t, file("a"), &tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}),
		"device":         forge(t, file("a"), &tar.Header{Name: "a", Typeflag: tar.TypeChar}),
		"unannounced":    forge(t, file("a"), reg("a", 0), reg("b", 0)),
		"twice":          forge(t, file("a"), reg("a", 0), reg("a", 0)),
		"missing":        forge(t, file("a")),
		"too long":       forge(t, file("a"), reg("a", 1)),
		"bomb":           forge(t, big, reg("a", 0)),
		"other service":  forge(t, other, reg("a", 0)),
		"newer schema":   forge(t, newer, reg("sample.db", 0)),
		"empty database": forge(t, archive.Manifest{Format: 1, Service: "sample", Files: newer.Files, Databases: []archive.Database{{Path: "sample.db"}}}, reg("sample.db", 0)),
	} {
		target := service(t, 3)
		_, _, err := archive.Restore(t.Context(), p, archive.RestoreOptions{Target: target, Schemas: map[string]int{"sample.db": 1}})
		if !fault.Is(err, fault.Precondition) && !fault.Is(err, fault.Exhausted) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
		if got := count(t, target.Dir); got != 3 {
			t.Errorf("%s: the old data has %d rows", name, got)
		}
		if left, _ := filepath.Glob(filepath.Join(target.Dir, ".restore*")); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// A restore that dies in its hook is finished by the next start.
func TestRecoverFinishes(t *testing.T) {
	t.Parallel()
	name, _, err := archive.Create(t.Context(), service(t, 5), "")
	if err != nil {
		t.Fatal(err)
	}
	target := service(t, 2)
	boom := errors.New("killed")
	_, _, err = archive.Restore(t.Context(), name, archive.RestoreOptions{Target: target, OnRestore: func(context.Context, string) error { return boom }})
	if !errors.Is(err, boom) {
		t.Fatalf("Restore = %v", err)
	}
	hooked := false
	found, err := archive.Recover(t.Context(), target.Dir, func(context.Context, string) error { hooked = true; return nil })
	if err != nil || !found || !hooked || count(t, target.Dir) != 5 {
		t.Errorf("Recover = %v, %v, hook %v, rows %d", found, err, hooked, count(t, target.Dir))
	}
	if found, err := archive.Recover(t.Context(), target.Dir, nil); found || err != nil {
		t.Errorf("second Recover = %v, %v", found, err)
	}
}

func TestRestoreNeedsTheLock(t *testing.T) {
	t.Parallel()
	src := service(t, 1)
	name, _, err := archive.Create(t.Context(), src, "")
	if err != nil {
		t.Fatal(err)
	}
	lock, err := db.LockFolder(src.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := archive.Restore(t.Context(), name, archive.RestoreOptions{Target: src}); !fault.Is(err, fault.Conflict) {
		t.Errorf("Restore beside a server: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func FuzzVerify(f *testing.F) {
	name, _, err := archive.Create(context.Background(), service(f, 1), "")
	if err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:len(b)-48])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = archive.Verify(t.Context(), seal(t, body), archive.Expect{}) // must not panic or write elsewhere
	})
}

func ExampleCreate() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		return
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	src := archive.Source{Service: "sample", Dir: dir}
	if err := os.WriteFile(filepath.Join(dir, "sample.toml"), []byte("[server]\n"), 0o600); err != nil {
		return
	}
	name, _, err := archive.Create(ctx, src, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	m, err := archive.VerifyAndMark(ctx, name, archive.Expect{Service: "sample"})
	fmt.Println(len(m.Files), err)
	// Output: 1 <nil>
}
