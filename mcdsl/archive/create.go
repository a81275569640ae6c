package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/secret"
)

// The trailer: a zstd skippable frame (RFC 8878 section 3.1.2) with a mark and the SHA-256 of all before it.
const (
	skippableMagic = 0x184D2A50
	trailerMark    = "MCSHA256"
	trailerSize    = 4 + 4 + len(trailerMark) + sha256.Size
)

// Create writes a snapshot into dir (default: backups/ of the service's folder) and returns its path. It
// is not verified yet. A snapshot that fails half-way leaves nothing.
func Create(ctx context.Context, src Source, dir string) (name string, m Manifest, err error) {
	if dir == "" {
		dir = filepath.Join(src.Dir, "backups")
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", m, fmt.Errorf("snapshot: %w", err)
	}
	f, err := os.CreateTemp(dir, ".snapshot-*.part")
	if err != nil {
		return "", m, fmt.Errorf("snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if m, err = Write(ctx, src, f); err != nil {
		return "", m, err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return "", m, fmt.Errorf("snapshot: %w", err)
	}
	name = filepath.Join(dir, src.Service+"-"+m.Time.Format("20060102T150405.000Z")+suffix)
	if err = os.Rename(f.Name(), name); err != nil {
		return "", m, fmt.Errorf("snapshot: %w", err)
	}
	return name, m, secret.SyncDir(dir)
}

const suffix = ".tar.zst"

// Write writes a snapshot to w. Files are first copied to a scratch folder, so that manifest and content
// agree whatever the running service does meanwhile.
func Write(ctx context.Context, src Source, w io.Writer) (Manifest, error) {
	m := Manifest{Format: format, Service: src.Service, Version: src.Version,
		Time: clock.Or(src.Clock).Now().UTC().Truncate(time.Millisecond)}
	scratch, err := os.MkdirTemp(src.Dir, ".snapshot-")
	if err != nil {
		return m, fmt.Errorf("snapshot: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }()

	for _, name := range src.Databases {
		if _, err := os.Stat(filepath.Join(src.Dir, name)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		dst := filepath.Join(scratch, name)
		if err := os.MkdirAll(filepath.Dir(dst), 0o750); err != nil {
			return m, fmt.Errorf("snapshot: %w", err)
		}
		if err := db.CopyFile(ctx, filepath.Join(src.Dir, name), dst); err != nil {
			return m, err
		}
		info, err := db.Inspect(ctx, dst)
		if err != nil {
			return m, err
		}
		m.Databases = append(m.Databases, Database{Path: filepath.ToSlash(name), Service: info.Service, ID: info.ID,
			Schema: info.Schema, Version: info.Version, Rows: info.Rows})
		f, err := describe(scratch, filepath.ToSlash(name), 0o600)
		if err != nil {
			return m, err
		}
		m.Files = append(m.Files, f)
	}
	names, err := src.files()
	if err != nil {
		return m, err
	}
	for _, rel := range names {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		mode, err := copyFile(filepath.Join(src.Dir, rel), filepath.Join(scratch, rel))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return m, fmt.Errorf("snapshot of %s: %w", rel, err)
		}
		f, err := describe(scratch, rel, mode)
		if err != nil {
			return m, err
		}
		m.Files = append(m.Files, f)
	}
	return m, pack(ctx, m, scratch, w)
}

func copyFile(src, dst string) (fs.FileMode, error) {
	in, err := os.Open(src)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	st, err := in.Stat()
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o750); err != nil {
		return 0, err
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(out, in)
	return st.Mode().Perm(), errors.Join(err, out.Close())
}

func describe(dir, rel string, mode fs.FileMode) (File, error) {
	f, err := os.Open(filepath.Join(dir, rel))
	if err != nil {
		return File{}, fmt.Errorf("snapshot: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, fmt.Errorf("snapshot of %s: %w", rel, err)
	}
	return File{Path: rel, Size: n, Mode: mode, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// pack writes manifest, files and trailer.
func pack(ctx context.Context, m Manifest, dir string, w io.Writer) error {
	sum := &summing{w: w, h: sha256.New()}
	z, err := zstd.NewWriter(sum, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	tw := tar.NewWriter(z)
	body, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	header := func(name string, size int64, mode fs.FileMode) error {
		return tw.WriteHeader(&tar.Header{Name: name, Size: size, Mode: int64(mode.Perm()), ModTime: m.Time, Typeflag: tar.TypeReg, Format: tar.FormatPAX})
	}
	if err := header(manifestName, int64(len(body)), 0o600); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	if _, err := tw.Write(body); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	for _, f := range m.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := header(f.Path, f.Size, f.Mode); err != nil {
			return fmt.Errorf("snapshot of %s: %w", f.Path, err)
		}
		in, err := os.Open(filepath.Join(dir, f.Path))
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		_, err = io.Copy(tw, in)
		if err := errors.Join(err, in.Close()); err != nil {
			return fmt.Errorf("snapshot of %s: %w", f.Path, err)
		}
	}
	if err := errors.Join(tw.Close(), z.Close()); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	trailer := binary.LittleEndian.AppendUint32(nil, skippableMagic)
	trailer = binary.LittleEndian.AppendUint32(trailer, uint32(len(trailerMark)+sha256.Size))
	trailer = append(trailer, trailerMark...)
	trailer = sum.h.Sum(trailer)
	if _, err := w.Write(trailer); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// summing hashes what passes through.
type summing struct {
	w io.Writer
	h hash.Hash
}

func (s *summing) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.h.Write(p[:n])
	return n, err
}
