package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
)

// Expect says what a snapshot must be to be of use here.
type Expect struct {
	Service string         // another service's is refused
	Schemas map[string]int // newest schema this binary knows, by database path; absent = not checked
	Scratch string         // folder to restore into for the proof; empty = beside the snapshot
}

// Verify proves a snapshot by restoring it to a scratch folder, which is removed again.
func Verify(ctx context.Context, name string, want Expect) (Manifest, error) {
	parent := want.Scratch
	if parent == "" {
		parent = filepath.Dir(name)
	}
	scratch, err := os.MkdirTemp(parent, ".restore-verify-")
	if err != nil {
		return Manifest{}, fmt.Errorf("verify snapshot: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	return unpack(ctx, name, scratch, want)
}

// VerifyAndMark is Verify; a snapshot that passes gets a ".verified" file beside it.
func VerifyAndMark(ctx context.Context, name string, want Expect) (Manifest, error) {
	m, err := Verify(ctx, name, want)
	if err != nil {
		return m, err
	}
	return m, secret.WriteFile(name+verifiedSuffix, nil)
}

const verifiedSuffix = ".verified"

// unpack checks the trailer, extracts into dir (which exists and is empty) and checks everything.
func unpack(ctx context.Context, name, dir string, want Expect) (m Manifest, err error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fault.New(fault.NotFound, "there is no snapshot %s", name).Wrap(err)
	}
	if err != nil {
		return m, fmt.Errorf("open snapshot: %w", err)
	}
	defer func() { _ = f.Close() }()
	length, err := checkTrailer(f)
	if err != nil {
		return m, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return m, fmt.Errorf("read snapshot: %w", err)
	}
	z, err := zstd.NewReader(io.LimitReader(f, length), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return m, fmt.Errorf("read snapshot: %w", err)
	}
	defer z.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return m, fmt.Errorf("restore: %w", err)
	}
	defer func() { _ = root.Close() }()
	if m, err = extract(ctx, tar.NewReader(z), root, dir, want); err != nil {
		return m, err
	}
	return m, checkDatabases(ctx, m, dir, want)
}

// checkTrailer compares the hash at the end with all bytes before it and returns how many those are.
func checkTrailer(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	n := st.Size() - int64(trailerSize)
	if n <= 0 {
		return 0, bad("it is too short")
	}
	t := make([]byte, trailerSize)
	if _, err := f.ReadAt(t, n); err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	if binary.LittleEndian.Uint32(t) != skippableMagic || binary.LittleEndian.Uint32(t[4:]) != uint32(trailerSize-8) ||
		string(t[8:8+len(trailerMark)]) != trailerMark {
		return 0, bad("its end is not that of a snapshot: it was cut, or something was appended")
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, n)); err != nil {
		return 0, fmt.Errorf("read snapshot: %w", err)
	}
	if !bytes.Equal(h.Sum(nil), t[8+len(trailerMark):]) {
		return 0, bad("its checksum does not fit: it was changed or damaged")
	}
	return n, nil
}

// extract writes the files below root. Only what the manifest announces is accepted.
func extract(ctx context.Context, tr *tar.Reader, root *os.Root, dir string, want Expect) (m Manifest, err error) {
	hd, err := tr.Next()
	if err != nil || hd.Name != manifestName || hd.Typeflag != tar.TypeReg || hd.Size > maxManifest {
		return m, bad("it does not begin with a manifest").Wrap(err)
	}
	body, err := io.ReadAll(io.LimitReader(tr, maxManifest))
	if err != nil {
		return m, bad("its manifest cannot be read").Wrap(err)
	}
	if m, err = parseManifest(body); err != nil {
		return m, err
	}
	if want.Service != "" && m.Service != want.Service {
		return m, bad("it is of %s, not of %s", m.Service, want.Service)
	}
	for _, d := range m.Databases {
		if known, ok := want.Schemas[d.Path]; ok && d.Schema > known {
			return m, bad("schema %d of %s was written by version %s; this binary knows %d", d.Schema, d.Path, d.Version, known).
				WithNext("use version %s or later", d.Version)
		}
	}
	if err := checkSpace(m, dir); err != nil {
		return m, err
	}
	announced := map[string]File{}
	for _, f := range m.Files {
		announced[f.Path] = f
	}
	for {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		hd, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, bad("it cannot be read").Wrap(err)
		}
		if err := checkName(hd.Name); err != nil {
			return m, err
		}
		f, ok := announced[hd.Name]
		if !ok || hd.Typeflag != tar.TypeReg || hd.Size != f.Size {
			return m, bad("%q is not what the manifest announces", hd.Name)
		}
		delete(announced, hd.Name)
		if err := extractFile(tr, root, f); err != nil {
			return m, err
		}
	}
	for name := range announced {
		return m, bad("%q is missing", name)
	}
	return m, nil
}

func extractFile(tr io.Reader, root *os.Root, f File) error {
	if d := path.Dir(f.Path); d != "." {
		if err := root.MkdirAll(d, 0o750); err != nil {
			return fmt.Errorf("restore %s: %w", f.Path, err)
		}
	}
	out, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode.Perm()&0o700)
	if err != nil {
		return fmt.Errorf("restore %s: %w", f.Path, err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, h), io.LimitReader(tr, f.Size+1))
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("restore %s: %w", f.Path, err)
	}
	if n != f.Size || hex.EncodeToString(h.Sum(nil)) != f.SHA256 {
		return bad("the content of %q does not fit its checksum", f.Path)
	}
	return nil
}

// checkSpace refuses an archive that would not fit: also the defence against one made to burst.
func checkSpace(m Manifest, dir string) error {
	var total int64
	for _, f := range m.Files {
		if total += f.Size; total < 0 {
			return bad("its sizes overflow")
		}
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; total > free { //nolint:gosec // no disk has 2^63 bytes
		return fault.New(fault.Exhausted, "the snapshot needs %d bytes, %d are free in %s", total, free, dir).WithReason("DISK_FULL")
	}
	return nil
}

// checkDatabases proves that the databases open, are whole and hold what the manifest says.
func checkDatabases(ctx context.Context, m Manifest, dir string, want Expect) error {
	for _, d := range m.Databases {
		p := filepath.Join(dir, filepath.FromSlash(d.Path))
		if err := db.CheckFile(ctx, p); err != nil {
			return bad("its database %s is damaged", d.Path).Wrap(err)
		}
		info, err := db.Inspect(ctx, p)
		if err != nil {
			return bad("its database %s cannot be read", d.Path).Wrap(err)
		}
		if info.ID != d.ID || info.Schema != d.Schema || !maps.Equal(info.Rows, d.Rows) {
			return bad("its database %s is not the one the manifest describes", d.Path)
		}
		if want.Service != "" && info.Service != want.Service {
			return bad("its database %s is of %s, not of %s", d.Path, info.Service, want.Service)
		}
	}
	return nil
}
