package cas

import (
	_ "crypto/sha512" // go-digest finds its algorithms in crypto's register
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

const (
	checkpointEvery = 16 << 20
	syncEvery       = 64 << 20
)

// ErrGone is in the chain when an upload's file is not there.
var ErrGone = errors.New("no such upload")

// Synced is what an upload has on disk for certain; the caller keeps it where a power cut cannot reach.
type Synced struct {
	Offset int64
	State  []byte // of the running hash
}

// Upload is a file that grows while it is hashed.
type Upload struct {
	OnSync func(Synced) error // told after each sync of 64 MiB; nil = nobody

	s      *Store
	id     string
	alg    digest.Algorithm
	f      *os.File
	h      hash.Hash
	off    int64
	saved  int64 // offset of the last checkpoint
	synced int64
	seq    uint64
	broken bool
}

// Create makes an upload. The id must be a name the caller made, never one a client chose.
func (s *Store) Create(id string, alg digest.Algorithm) (*Upload, error) {
	u := &Upload{s: s, id: id, alg: alg, h: alg.Hash()}
	f, err := s.root.OpenFile(u.path(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make upload: %w", err)
	}
	u.f = f
	return u, nil
}

// Resume opens an upload where it can go on: at the last checkpoint if this kernel has run since, else at what
// was synced. It truncates what lies behind.
func (s *Store) Resume(id string, alg digest.Algorithm, synced Synced) (*Upload, error) {
	u := &Upload{s: s, id: id, alg: alg, h: alg.Hash()}
	f, err := s.root.OpenFile(u.path(), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("open upload: %w", err)
	}
	u.f = f
	if err := u.restore(synced); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// Offset returns where Resume would go on, without touching the upload.
func (s *Store) Offset(id string, synced Synced) (int64, error) {
	info, err := s.root.Stat(path.Join("uploads", id))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ErrGone
	}
	if err != nil {
		return 0, fmt.Errorf("stat upload: %w", err)
	}
	at := synced
	if slot, ok := s.readState(id); ok {
		at = slot.Synced
	}
	if at.Offset > info.Size() {
		return 0, ErrGone
	}
	return at.Offset, nil
}

func (u *Upload) restore(synced Synced) error {
	at := synced
	if slot, ok := u.s.readState(u.id); ok {
		at, u.seq = slot.Synced, slot.seq
	}
	info, err := u.f.Stat()
	if err != nil {
		return fmt.Errorf("open upload: %w", err)
	}
	if info.Size() < at.Offset {
		return fmt.Errorf("%w: its file is shorter than its state", ErrGone)
	}
	if info.Size() > at.Offset {
		if err := u.f.Truncate(at.Offset); err != nil {
			return fmt.Errorf("cut upload: %w", err)
		}
	}
	if at.Offset > 0 && !setState(u.h, at.State) {
		// The state is of another release: hash what is there again.
		u.h = u.alg.Hash()
		if _, err := u.f.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("read upload: %w", err)
		}
		if n, err := io.Copy(u.h, u.f); err != nil || n != at.Offset {
			return fmt.Errorf("read upload again: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
	}
	if _, err := u.f.Seek(at.Offset, io.SeekStart); err != nil {
		return fmt.Errorf("open upload: %w", err)
	}
	u.off, u.saved, u.synced = at.Offset, at.Offset, min(synced.Offset, at.Offset)
	return nil
}

func (u *Upload) path() string { return path.Join("uploads", u.id) }

// Offset returns how many bytes the upload has.
func (u *Upload) Offset() int64 { return u.off }

// part is a buffer on its way to the file and the hash; whoever is done with it last gives it back.
type part struct {
	b    []byte
	n    int
	refs atomic.Int32
}

func (u *Upload) done(p *part) {
	if p.refs.Add(-1) == 0 {
		u.s.release(p.b)
	}
}

// Append writes and hashes r until its end, side by side, and returns how much it took. An error of r keeps
// what came before it; an error of the disk breaks the upload, which then can only be discarded.
func (u *Upload) Append(r io.Reader) (total int64, err error) {
	if u.broken {
		return 0, errors.New("the upload is broken")
	}
	parts := make(chan *part, 4)
	var hashing sync.WaitGroup // parts on their way to the hash
	go func() {
		for p := range parts {
			_, _ = u.h.Write(p.b[:p.n])
			u.done(p)
			hashing.Done()
		}
	}()
	var syncing sync.WaitGroup
	syncErr := make(chan error, 1)
	var busy atomic.Bool
	defer func() {
		close(parts)
		hashing.Wait()
		syncing.Wait()
		select {
		case serr := <-syncErr:
			u.broken = true
			err = serr
		default:
		}
	}()
	for {
		p := &part{b: u.s.buffer()}
		n, rerr := fill(r, p.b)
		if n == 0 {
			u.s.release(p.b)
		} else {
			p.n = n
			p.refs.Store(2)
			hashing.Add(1)
			parts <- p
			_, werr := u.f.Write(p.b[:n])
			u.done(p)
			if werr != nil {
				u.broken = true
				return total, fmt.Errorf("write upload: %w", werr)
			}
			u.off += int64(n)
			total += int64(n)
		}
		if u.off-u.saved >= checkpointEvery {
			hashing.Wait()
			if err := u.checkpoint(); err != nil {
				u.broken = true
				return total, err
			}
			if u.off-u.synced >= syncEvery && busy.CompareAndSwap(false, true) {
				at := Synced{Offset: u.off, State: state(u.h)}
				u.synced = u.off
				syncing.Go(func() {
					defer busy.Store(false)
					if serr := u.sync(at); serr != nil {
						select {
						case syncErr <- serr:
						default:
						}
					}
				})
			}
		}
		if errors.Is(rerr, io.EOF) {
			return total, nil
		}
		if rerr != nil {
			return total, rerr
		}
	}
}

// fill reads until b is full or r ends; it returns what it has with r's error.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

func (u *Upload) sync(at Synced) error {
	if err := u.f.Sync(); err != nil {
		return fmt.Errorf("sync upload: %w", err)
	}
	if u.OnSync == nil {
		return nil
	}
	return u.OnSync(at)
}

// Checkpoint keeps the offset for after a crash of this process. Call it at the end of each chunk.
func (u *Upload) Checkpoint() error {
	if u.broken || u.off == u.saved {
		return nil
	}
	return u.checkpoint()
}

// Finish makes every byte durable and returns the digest in the algorithm asked for; one that is not the
// running one costs reading the file once.
func (u *Upload) Finish(alg digest.Algorithm) (digest.Digest, error) {
	if u.broken {
		return "", errors.New("the upload is broken")
	}
	h := u.h
	if alg != u.alg {
		if _, err := u.f.Seek(0, io.SeekStart); err != nil {
			return "", fmt.Errorf("read upload: %w", err)
		}
		h = alg.Hash()
		if n, err := io.Copy(h, u.f); err != nil || n != u.off {
			return "", fmt.Errorf("read upload: %w", errors.Join(err, io.ErrUnexpectedEOF))
		}
	}
	if err := u.f.Sync(); err != nil {
		u.broken = true // the kernel has dropped the error: a second sync would prove nothing
		return "", fmt.Errorf("sync upload: %w", err)
	}
	return digest.NewDigest(alg, h), nil
}

// Discard removes the upload.
func (u *Upload) Discard() error {
	u.close()
	return u.s.DiscardUpload(u.id)
}

// Close leaves the upload for later.
func (u *Upload) Close() { u.close() }

func (u *Upload) close() {
	if u.f != nil {
		_ = u.f.Close() // what matters was synced before, and its error taken
		u.f = nil
	}
}

// DiscardUpload removes an upload's files; absent ones are no error.
func (s *Store) DiscardUpload(id string) error {
	s.removeState(id)
	if err := s.root.Remove(path.Join("uploads", id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard upload: %w", err)
	}
	return nil
}

func state(h hash.Hash) []byte {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil
	}
	b, err := m.MarshalBinary()
	if err != nil {
		return nil
	}
	return b
}

func setState(h hash.Hash, b []byte) bool {
	m, ok := h.(encoding.BinaryUnmarshaler)
	return ok && m.UnmarshalBinary(b) == nil
}
