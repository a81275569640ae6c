package cas_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcr/internal/cas"
)

func open(t *testing.T, dir string) *cas.Store {
	t.Helper()
	s, err := cas.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	for _, size := range []int{0, 1, 256 << 10, 256<<10 + 1, 3 << 20} {
		data := noise(size)
		for _, running := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			for _, want := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
				u, err := s.Create("u", running)
				if err != nil {
					t.Fatal(err)
				}
				if n, err := u.Append(bytes.NewReader(data)); err != nil || n != int64(size) {
					t.Fatalf("Append = %d, %v", n, err)
				}
				d, err := u.Finish(want)
				if err != nil || d != want.FromBytes(data) {
					t.Fatalf("Finish(%s) of %d bytes hashed as %s = %s, %v", want, size, running, d, err)
				}
				unlock := s.Lock(d)
				err = s.Place(u, d)
				unlock()
				if err != nil {
					t.Fatal(err)
				}
				f, err := s.OpenBlob(d)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(f)
				_ = f.Close()
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("blob of %d bytes reads back another, %v", size, err)
				}
			}
		}
	}
	left, err := os.ReadDir(filepath.Join(dir, "uploads"))
	if err != nil || len(left) != 0 {
		t.Errorf("uploads = %v, %v, want none", left, err)
	}
}

// broken ends in an error after its bytes, like a connection.
type broken struct {
	io.Reader
}

var errBroken = errors.New("connection reset")

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errBroken
	}
	return n, err
}

func TestResumeAfterCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := noise(40<<20 + 123)
	s := open(t, dir)
	u, err := s.Create("u", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := u.Append(broken{bytes.NewReader(data[:33<<20])}); !errors.Is(err, errBroken) || n != 33<<20 {
		t.Fatalf("Append = %d, %v", n, err)
	}
	// No Checkpoint, no Close: the process is gone. What it wrote behind the last checkpoint does not count.
	again := open(t, dir)
	at, err := again.Offset("u", cas.Synced{})
	if err != nil || at != 32<<20 {
		t.Fatalf("Offset = %d, %v, want %d", at, err, 32<<20)
	}
	r, err := again.Resume("u", digest.SHA256, cas.Synced{})
	if err != nil || r.Offset() != at {
		t.Fatalf("Resume at %v, %v", r, err)
	}
	if _, err := r.Append(bytes.NewReader(data[at:])); err != nil {
		t.Fatal(err)
	}
	if d, err := r.Finish(digest.SHA256); err != nil || d != digest.FromBytes(data) {
		t.Errorf("Finish = %s, %v", d, err)
	}
	_ = u
}

func TestResumeAfterPowerCut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := noise(70 << 20)
	s := open(t, dir)
	u, err := s.Create("u", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var synced cas.Synced
	u.OnSync = func(at cas.Synced) error { synced = at; return nil }
	if _, err := u.Append(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if synced.Offset != 64<<20 {
		t.Fatalf("synced = %d, want %d", synced.Offset, 64<<20)
	}
	// The checkpoints were never synced: a power cut loses them, and what was not synced of the file.
	if err := os.Remove(filepath.Join(dir, "uploads", "u.state")); err != nil {
		t.Fatal(err)
	}
	r, err := open(t, dir).Resume("u", digest.SHA256, synced)
	if err != nil || r.Offset() != 64<<20 {
		t.Fatalf("Resume = %v, %v", r, err)
	}
	if _, err := r.Append(bytes.NewReader(data[64<<20:])); err != nil {
		t.Fatal(err)
	}
	if d, err := r.Finish(digest.SHA256); err != nil || d != digest.FromBytes(data) {
		t.Errorf("Finish = %s, %v", d, err)
	}
	// A state of another release means hashing again, not failing.
	u2, err := s.Create("v", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u2.Append(bytes.NewReader(data[:1000])); err != nil {
		t.Fatal(err)
	}
	u2.Close()
	r, err = s.Resume("v", digest.SHA256, cas.Synced{Offset: 500, State: []byte("other")})
	if err != nil || r.Offset() != 500 {
		t.Fatalf("Resume with a strange state = %v, %v", r, err)
	}
	if _, err := r.Append(bytes.NewReader(data[500:1000])); err != nil {
		t.Fatal(err)
	}
	if d, err := r.Finish(digest.SHA256); err != nil || d != digest.FromBytes(data[:1000]) {
		t.Errorf("Finish = %s, %v", d, err)
	}
}

func TestTornCheckpoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := noise(3000)
	s := open(t, dir)
	u, err := s.Create("u", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := u.Append(bytes.NewReader(data[i*1000 : i*1000+1000])); err != nil {
			t.Fatal(err)
		}
		if err := u.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "uploads", "u.state")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1 // the newer slot: the second checkpoint has sequence 2 and lies at 0
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if at, err := s.Offset("u", cas.Synced{}); err != nil || at != 1000 {
		t.Errorf("Offset with a torn slot = %d, %v, want 1000", at, err)
	}
}
