package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Snapshot is one archive in a backups folder.
type Snapshot struct {
	Path     string    `json:"path"`
	Time     time.Time `json:"time"`
	Size     int64     `json:"size"`
	Verified time.Time `json:"verified"` // zero = not verified
}

// List returns a service's snapshots in a folder, newest first.
func List(dir, service string) ([]Snapshot, error) {
	names, err := filepath.Glob(filepath.Join(dir, service+"-*"+suffix))
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	var out []Snapshot
	for _, n := range names {
		stamp := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(n), service+"-"), suffix)
		at, err := time.Parse("20060102T150405.000Z", stamp)
		if err != nil {
			continue // somebody else's file
		}
		st, err := os.Stat(n)
		if err != nil {
			continue
		}
		s := Snapshot{Path: n, Time: at, Size: st.Size()}
		if v, err := os.Stat(n + verifiedSuffix); err == nil {
			s.Verified = v.ModTime().UTC()
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Snapshot) int { return b.Time.Compare(a.Time) })
	return out, nil
}

// Prune removes all but the newest keep verified snapshots, and unverified ones older than the oldest
// kept. With fewer than keep verified ones nothing is removed.
func Prune(dir, service string, keep int) (removed []string, err error) {
	all, err := List(dir, service)
	if err != nil || keep < 1 {
		return nil, err
	}
	verified := 0
	for _, s := range all {
		if verified < keep {
			if !s.Verified.IsZero() {
				verified++
			}
			continue
		}
		for _, p := range []string{s.Path, s.Path + verifiedSuffix} {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return removed, fmt.Errorf("prune snapshots: %w", err)
			}
		}
		removed = append(removed, s.Path)
	}
	return removed, nil
}
