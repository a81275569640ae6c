package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"metacircular.net/mcdsl/fault"
)

// maxFile bounds a secret file: keys and passwords are small.
const maxFile = 64 << 10

// credentialPrefix marks the name of a systemd credential.
const credentialPrefix = "credential:"

// ReadFile reads a secret from a private file, or from a systemd credential if name is "credential:NAME".
// One final line break is not part of it. A file others can read is refused: its content must be
// considered known. An absent file is fs.ErrNotExist in the chain.
func ReadFile(name string) (Value, error) {
	path := name
	if cred, ok := strings.CutPrefix(name, credentialPrefix); ok {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return Value{}, fault.New(fault.Invalid, "no systemd credentials here, %q was asked for", cred).
				WithNext("add LoadCredential=%s:FILE to the unit, or name a file", cred)
		}
		if cred == "" || strings.ContainsAny(cred, "/\x00") {
			return Value{}, fault.New(fault.Invalid, "%q is no name of a credential", cred)
		}
		path = filepath.Join(dir, cred)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return Value{}, fmt.Errorf("secret file: %w", err)
		}
		return Value{}, fault.New(fault.Invalid, "cannot read secret file %s", path).Wrap(err)
	}
	defer func() { _ = f.Close() }()
	if err := checkPrivate(f, path); err != nil {
		return Value{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Value{}, fmt.Errorf("read secret file %s: %w", path, err)
	}
	if len(b) > maxFile {
		return Value{}, fault.New(fault.Invalid, "secret file %s is over %d bytes", path, maxFile)
	}
	b = bytes.TrimSuffix(b, []byte("\n"))
	b = bytes.TrimSuffix(b, []byte("\r"))
	if len(b) == 0 {
		return Value{}, fault.New(fault.Invalid, "secret file %s is empty", path)
	}
	return hold(b), nil
}

// checkPrivate refuses a file that is not regular, that others can read, or that a stranger owns.
func checkPrivate(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("stat secret file %s: %w", path, err)
	}
	if !st.Mode().IsRegular() {
		return fault.New(fault.Invalid, "secret file %s is not a regular file", path)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		if uid := os.Geteuid(); sys.Uid != 0 && int(sys.Uid) != uid {
			return fault.New(fault.Invalid, "secret file %s belongs to uid %d, this runs as %d", path, sys.Uid, uid).
				WithNext("chown %d %s", uid, path)
		}
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return fault.New(fault.Invalid, "secret file %s has mode %04o: others can read it", path, perm).
			WithNext("chmod 600 %s", path)
	}
	return nil
}

// WriteFile writes data to path so that nobody else can read it and a power cut leaves the old or the
// new: temporary file 0600, fsync, rename, fsync of the folder. The folder must exist.
func WriteFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // 0600 by CreateTemp's contract
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return SyncDir(dir)
}

// SyncDir makes renames and removals in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer func() { _ = d.Close() }()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
