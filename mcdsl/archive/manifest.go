package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
)

// Limits of an archive.
const (
	maxEntries  = 1_000_000
	maxManifest = 256 << 20
	format      = 1
)

const manifestName = "manifest.json"

// File is one file of a snapshot.
type File struct {
	Path   string      `json:"path"` // relative, with slashes
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	SHA256 string      `json:"sha256"`
}

// Database is what a snapshot says about one of its databases.
type Database struct {
	Path    string           `json:"path"`
	Service string           `json:"service"`
	ID      string           `json:"id"`
	Schema  int              `json:"schema"`
	Version string           `json:"version"`
	Rows    map[string]int64 `json:"rows"`
}

// Manifest describes a snapshot.
type Manifest struct {
	Format    int        `json:"format"`
	Service   string     `json:"service"`
	Version   string     `json:"version"`
	Time      time.Time  `json:"time"`
	Databases []Database `json:"databases"`
	Files     []File     `json:"files"`
}

// Source says what a snapshot is made of.
type Source struct {
	Service   string
	Version   string
	Dir       string                // the service's folder
	Databases []string              // relative to Dir, e.g. "mcns.db"; absent ones are left out
	Exclude   func(rel string) bool // further files and folders that stay out; nil = none
	Clock     clock.Clock
}

// skip reports whether a path of the folder is never part of a snapshot.
func (s Source) skip(rel string) bool {
	base := path.Base(rel)
	if strings.HasSuffix(base, ".db") || strings.Contains(base, ".db-") {
		return true
	}
	top, _, _ := strings.Cut(rel, "/")
	if top == "backups" || top == "run" || strings.HasPrefix(top, ".restore") || strings.HasPrefix(top, ".before-") || strings.HasPrefix(top, ".snapshot-") {
		return true
	}
	return s.Exclude != nil && s.Exclude(rel)
}

// files lists the regular files of the folder that belong to the snapshot, databases apart.
func (s Source) files() ([]string, error) {
	var out []string
	err := filepath.WalkDir(s.Dir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone while we looked
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.Dir, p)
		if err != nil || rel == "." {
			return err
		}
		rel = filepath.ToSlash(rel)
		if s.skip(rel) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type().IsRegular() {
			out = append(out, rel)
		}
		if len(out) > maxEntries {
			return fault.New(fault.Exhausted, "%s holds over %d files", s.Dir, maxEntries)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.Dir, err)
	}
	return out, nil
}

// parseManifest reads and checks a manifest.
func parseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, bad("its manifest cannot be read").Wrap(err)
	}
	if m.Format != format {
		return m, bad("its format %d is not known", m.Format)
	}
	if len(m.Files) > maxEntries {
		return m, bad("it has over %d files", maxEntries)
	}
	seen := map[string]bool{}
	for _, f := range m.Files {
		if err := checkName(f.Path); err != nil {
			return m, err
		}
		if seen[f.Path] || f.Path == manifestName {
			return m, bad("it names %q twice", f.Path)
		}
		if f.Size < 0 || f.Mode&^fs.FileMode(0o777) != 0 {
			return m, bad("%q has a strange size or mode", f.Path)
		}
		seen[f.Path] = true
	}
	for _, d := range m.Databases {
		if !seen[d.Path] {
			return m, bad("database %q is missing", d.Path)
		}
	}
	return m, nil
}

// checkName refuses names that could leave the folder.
func checkName(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\\\x00") {
		return bad("the name %q is not allowed", name)
	}
	return nil
}

// bad is the fault for an archive that must not be used.
func bad(formatText string, args ...any) *fault.Error {
	return fault.New(fault.Precondition, "the snapshot cannot be used: "+formatText, args...).WithReason("BAD_SNAPSHOT")
}
