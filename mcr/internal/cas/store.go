package cas

import (
	_ "crypto/sha256" // makes the algorithm available to go-digest
	_ "crypto/sha512" // makes the algorithm available to go-digest
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	bufSize  = 256 << 10
	bufCount = 64 // 16 MiB for all uploads together
	stripes  = 256
)

var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// Store is a folder of blobs and uploads.
type Store struct {
	root  *os.Root
	bootN string
	free  chan []byte // at most bufCount buffers exist
	spare chan struct{}
	locks [stripes]sync.Mutex
}

// Open opens the folder and makes what is missing in it. The whole tree must lie on one filesystem, because a
// commit is a rename.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("content folder: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("content folder: %w", err)
	}
	s := &Store{root: root, bootN: bootID(), free: make(chan []byte, bufCount), spare: make(chan struct{}, bufCount)}
	if err := s.layout(); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("content folder %s: %w", dir, err)
	}
	return s, nil
}

// Close releases the folder; open blobs stay readable.
func (s *Store) Close() error { return s.root.Close() }

func (s *Store) layout() error {
	want := []string{"uploads", "quarantine"}
	for _, a := range algorithms {
		for i := range 256 {
			want = append(want, path.Join("blobs", a.String(), hex.EncodeToString([]byte{byte(i)})))
		}
	}
	var dev uint64
	for _, p := range want {
		info, err := s.root.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			if err = s.root.MkdirAll(p, 0o750); err == nil {
				info, err = s.root.Stat(p)
			}
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			continue
		}
		if d := uint64(st.Dev); dev == 0 { //nolint:unconvert // Dev's type differs between architectures
			dev = d
		} else if d != dev {
			return fmt.Errorf("%s lies on another filesystem than uploads: a blob is committed by renaming it", p)
		}
	}
	// The folders themselves must survive a power cut before anything is acknowledged in them.
	for _, a := range algorithms {
		if err := s.syncDir(path.Join("blobs", a.String())); err != nil {
			return err
		}
	}
	return s.syncDir("blobs")
}

func blobPath(d digest.Digest) string {
	h := d.Encoded()
	return path.Join("blobs", d.Algorithm().String(), h[:2], h)
}

// OpenBlob opens a blob. fs.ErrNotExist is in the chain if there is none.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, error) {
	f, err := s.root.Open(blobPath(d))
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	return f, nil
}

// Size returns the length of a blob's file.
func (s *Store) Size(d digest.Digest) (int64, error) {
	info, err := s.root.Stat(blobPath(d))
	if err != nil {
		return 0, fmt.Errorf("stat blob: %w", err)
	}
	return info.Size(), nil
}

// Lock holds a digest: between looking for a row and placing or removing its file. Take it before the database.
func (s *Store) Lock(d digest.Digest) (unlock func()) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(d))
	mu := &s.locks[h.Sum32()%stripes]
	mu.Lock()
	return mu.Unlock
}

// Place makes a finished upload the blob d. The caller holds d's lock.
func (s *Store) Place(u *Upload, d digest.Digest) error {
	p := blobPath(d)
	if err := s.root.Rename(u.path(), p); err != nil {
		return fmt.Errorf("place blob: %w", err)
	}
	u.close()
	if err := s.syncDir(path.Dir(p)); err != nil {
		return fmt.Errorf("place blob: %w", err)
	}
	s.removeState(u.id)
	return nil
}

// Remove unlinks a blob; readers that have it open go on. An absent one is no error. The caller holds d's lock.
func (s *Store) Remove(d digest.Digest) error {
	if err := s.root.Remove(blobPath(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove blob: %w", err)
	}
	return nil
}

// Quarantine moves a damaged blob aside, for a person to look at. The caller holds d's lock.
func (s *Store) Quarantine(d digest.Digest, now time.Time) error {
	to := path.Join("quarantine", d.Algorithm().String()+"-"+d.Encoded()+now.UTC().Format("-20060102T150405Z"))
	if err := s.root.Rename(blobPath(d), to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("quarantine blob: %w", err)
	}
	return s.syncDir("quarantine")
}

// Found is a file that Walk met.
type Found struct {
	Digest digest.Digest
	Size   int64
	Time   time.Time
}

// Walk visits every blob file, a folder at a time. Files whose names are no digests are left alone.
func (s *Store) Walk(fn func(Found) error) error {
	for _, a := range algorithms {
		for i := range 256 {
			dir := path.Join("blobs", a.String(), hex.EncodeToString([]byte{byte(i)}))
			entries, err := s.readDir(dir)
			if err != nil {
				return err
			}
			for _, e := range entries {
				d, err := digest.Parse(a.String() + ":" + e.Name())
				info, ierr := e.Info()
				if err != nil || ierr != nil {
					continue
				}
				if err := fn(Found{Digest: d, Size: info.Size(), Time: info.ModTime()}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// UploadFiles returns the ids of upload files and when each was last written.
func (s *Store) UploadFiles() (map[string]time.Time, error) {
	entries, err := s.readDir("uploads")
	if err != nil {
		return nil, err
	}
	ids := map[string]time.Time{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		id := strings.TrimSuffix(e.Name(), stateSuffix)
		if t := info.ModTime(); t.After(ids[id]) {
			ids[id] = t
		}
	}
	return ids, nil
}

// Disk returns the size of the filesystem and what is free on it for us.
func (s *Store) Disk() (total, free int64, err error) {
	d, err := s.root.Open(".")
	if err != nil {
		return 0, 0, fmt.Errorf("disk: %w", err)
	}
	defer d.Close()
	conn, err := d.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("disk: %w", err)
	}
	var st syscall.Statfs_t
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = syscall.Fstatfs(int(fd), &st) }); err != nil {
		return 0, 0, fmt.Errorf("disk: %w", err)
	}
	if serr != nil {
		return 0, 0, fmt.Errorf("disk: %w", serr)
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), nil
}

func (s *Store) readDir(dir string) ([]fs.DirEntry, error) {
	f, err := s.root.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("read folder: %w", err)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("read folder: %w", err)
	}
	return entries, nil
}

func (s *Store) syncDir(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// buffer takes one of the bounded set of buffers, waiting for one if all are in use.
func (s *Store) buffer() []byte {
	select {
	case b := <-s.free:
		return b
	default:
	}
	select {
	case b := <-s.free:
		return b
	case s.spare <- struct{}{}:
		return make([]byte, bufSize)
	}
}

func (s *Store) release(b []byte) { s.free <- b[:bufSize] }

// bootID tells one run of the kernel from the next: what was written but not synced is still there within it.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // then only synced offsets count
	}
	return strings.TrimSpace(string(b))
}
