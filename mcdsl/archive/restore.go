package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
)

// marker is what a killed restore leaves for the next start. After it is written a restore only goes
// forward: the new state has been proved already.
type marker struct {
	Restore string   `json:"restore"` // folder with the new files, relative
	Before  string   `json:"before"`  // folder for the old ones
	Old     []string `json:"old"`     // files to move aside
	New     []string `json:"new"`     // files to move in
	Phase   string   `json:"phase"`
}

const (
	markerName  = ".restore-marker"
	phaseAside  = "aside" // the old are being moved aside
	phaseIn     = "in"    // the new are being moved in
	phaseFinish = "finish"
)

// RestoreOptions say where to and how.
type RestoreOptions struct {
	Target    Source                                      // folder, service, databases and exclusions of the service that is restored
	Schemas   map[string]int                              // as in Expect
	Lock      *db.Lock                                    // held already; nil = Restore takes it
	OnRestore func(ctx context.Context, dir string) error // the service kills old authority; may run twice
}

// Restore puts a snapshot in place of the service's data. The server must be stopped (the folder's lock
// is needed). Until the snapshot has been proved nothing is touched; the old data is kept in the folder
// that is returned.
func Restore(ctx context.Context, name string, o RestoreOptions) (m Manifest, before string, err error) {
	dir := o.Target.Dir
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return m, "", fmt.Errorf("restore: %w", err)
	}
	if o.Lock == nil {
		lock, err := db.LockFolder(dir)
		if err != nil {
			return m, "", err
		}
		defer func() { err = errors.Join(err, lock.Unlock()) }()
	}
	if _, err := Recover(ctx, dir, o.OnRestore); err != nil {
		return m, "", err
	}
	stamp := time.Now().UTC().Format("20060102T150405.000Z")
	mk := marker{Restore: ".restore-" + stamp, Before: ".before-" + stamp, Phase: phaseAside}
	scratch := filepath.Join(dir, mk.Restore)
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return m, "", fmt.Errorf("restore: %w", err)
	}
	committed := false
	defer func() {
		if !committed {
			_ = os.RemoveAll(scratch)
		}
	}()
	m, err = unpack(ctx, name, scratch, Expect{Service: o.Target.Service, Schemas: o.Schemas})
	if err != nil {
		return m, "", err
	}
	if mk.Old, err = oldFiles(o.Target); err != nil {
		return m, "", err
	}
	for _, f := range m.Files {
		if o.Target.Exclude == nil || !o.Target.Exclude(f.Path) {
			mk.New = append(mk.New, f.Path)
		}
	}
	if err := writeMarker(dir, mk); err != nil {
		return m, "", err
	}
	committed = true
	if _, err := Recover(ctx, dir, o.OnRestore); err != nil {
		return m, "", err
	}
	return m, filepath.Join(dir, mk.Before), nil
}

// oldFiles lists what the restore replaces: the databases with their logs, and the files of a snapshot.
func oldFiles(src Source) ([]string, error) {
	out, err := src.files()
	if err != nil {
		return nil, err
	}
	for _, d := range src.Databases {
		for _, s := range []string{"", "-wal", "-shm"} {
			if _, err := os.Lstat(filepath.Join(src.Dir, d+s)); err == nil {
				out = append(out, filepath.ToSlash(d)+s)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

func writeMarker(dir string, mk marker) error {
	b, err := json.Marshal(mk)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return secret.WriteFile(filepath.Join(dir, markerName), b)
}

// Recover finishes a restore that was killed. Servers call it before they open anything; found reports
// whether there was one.
func Recover(ctx context.Context, dir string, onRestore func(ctx context.Context, dir string) error) (found bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, markerName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, cleanup(dir)
	}
	if err != nil {
		return false, fmt.Errorf("recover restore: %w", err)
	}
	var mk marker
	if err := json.Unmarshal(b, &mk); err != nil || !filepath.IsLocal(mk.Restore) || !filepath.IsLocal(mk.Before) {
		return true, fault.New(fault.Precondition, "the marker of a restore in %s cannot be read", dir).Wrap(err).
			WithNext("restore again, after removing %s", filepath.Join(dir, markerName))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return true, fmt.Errorf("recover restore: %w", err)
	}
	defer func() { _ = root.Close() }()
	if mk.Phase == phaseAside {
		if err := move(root, "", mk.Before, mk.Old); err != nil {
			return true, err
		}
		mk.Phase = phaseIn
		if err := writeMarker(dir, mk); err != nil {
			return true, err
		}
	}
	if mk.Phase == phaseIn {
		if err := move(root, mk.Restore, "", mk.New); err != nil {
			return true, err
		}
		mk.Phase = phaseFinish
		if err := writeMarker(dir, mk); err != nil {
			return true, err
		}
	}
	if onRestore != nil {
		if err := onRestore(ctx, dir); err != nil {
			return true, fmt.Errorf("after restore: %w", err)
		}
	}
	if err := root.RemoveAll(mk.Restore); err != nil {
		return true, fmt.Errorf("recover restore: %w", err)
	}
	if err := root.Remove(markerName); err != nil {
		return true, fmt.Errorf("recover restore: %w", err)
	}
	return true, secret.SyncDir(dir)
}

// move renames files from one folder to another, below root; what is no longer at its source was moved
// before. The folders are synced, so that a marker written afterwards is true.
func move(root *os.Root, from, to string, names []string) error {
	folders := map[string]bool{}
	for _, n := range names {
		if !filepath.IsLocal(n) {
			return bad("the name %q is not allowed", n)
		}
		src, dst := filepath.Join(from, n), filepath.Join(to, n)
		if _, err := root.Lstat(src); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if d := filepath.Dir(dst); d != "." {
			if err := root.MkdirAll(d, 0o750); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
		}
		if err := root.Rename(src, dst); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		folders[filepath.Dir(src)], folders[filepath.Dir(dst)] = true, true
	}
	for d := range folders {
		if err := secret.SyncDir(filepath.Join(root.Name(), d)); err != nil {
			return err
		}
	}
	return nil
}

// cleanup removes scratch folders of runs that were killed before they mattered.
func cleanup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("recover restore: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && (strings.HasPrefix(e.Name(), ".restore-") || strings.HasPrefix(e.Name(), ".snapshot-")) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove scratch folder: %w", err)
			}
		}
	}
	return nil
}
