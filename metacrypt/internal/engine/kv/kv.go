// Package kv holds secrets with versions: one metadata entry and one entry per version in the barrier, changed together.
package kv

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/ident"
)

// Type of the mounts of this engine.
const Type = "kv"

// Limits.
const (
	MaxFields   = 64
	MaxBytes    = 512 << 10
	MaxVersions = 10 // older ones are erased
	metaPrefix  = "m/"
)

// Version of a secret.
type Version struct {
	Number  uint32     `json:"version"`
	Created time.Time  `json:"created_at"`
	Deleted *time.Time `json:"deleted_at,omitempty"`
}

// meta is what is known of a secret without its values.
type meta struct {
	Current  uint32    `json:"current"`
	Versions []Version `json:"versions"` // oldest first
}

// Engine is one mount. Safe for concurrent use.
type Engine struct {
	b     *barrier.Barrier
	mount string
	clock clock.Clock
}

// New returns the engine of a mount.
func New(b *barrier.Barrier, mount string, c clock.Clock) *Engine {
	return &Engine{b: b, mount: mount, clock: clock.Or(c)}
}

func metaPath(path string) string { return metaPrefix + path }

func valuePath(path string, n uint32) string {
	return "v/" + strconv.FormatUint(uint64(n), 10) + "/" + path
}

func (e *Engine) meta(v *barrier.View, path string) (meta, error) {
	var m meta
	b, rev, err := v.Get(e.mount, metaPath(path))
	if err != nil || rev == 0 {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("decode metadata: %w", err)
	}
	return m, nil
}

// Put writes a new version. cas: nil = always, 0 = only create, n = only replace version n.
func (e *Engine) Put(ctx context.Context, path string, fields map[string][]byte, cas *uint32) (uint32, error) {
	if err := check(path, fields); err != nil {
		return 0, err
	}
	val, err := json.Marshal(fields)
	if err != nil {
		return 0, fmt.Errorf("encode secret: %w", err)
	}
	defer clear(val)
	var n uint32
	err = e.b.Write(ctx, func(tx *barrier.Tx) error {
		m, err := e.meta(&tx.View, path)
		if err != nil {
			return err
		}
		if cas != nil && *cas != m.Current {
			return fault.New(fault.Conflict, "the secret is at version %d, not %d", m.Current, *cas).WithReason("CAS").WithNext("read it again")
		}
		n = m.Current + 1
		m.Current = n
		m.Versions = append(m.Versions, Version{Number: n, Created: e.clock.Now().UTC()})
		for len(m.Versions) > MaxVersions {
			if _, err := tx.Delete(e.mount, valuePath(path, m.Versions[0].Number)); err != nil {
				return err
			}
			m.Versions = m.Versions[1:]
		}
		if _, err := tx.Put(e.mount, valuePath(path, n), val); err != nil {
			return err
		}
		return e.putMeta(tx, path, m)
	})
	return n, err
}

func (e *Engine) putMeta(tx *barrier.Tx, path string, m meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode metadata: %w", err)
	}
	_, err = tx.Put(e.mount, metaPath(path), b)
	return err
}

func check(path string, fields map[string][]byte) error {
	if err := ident.Path(path); err != nil {
		return fault.Field1("path", "%v", err)
	}
	if len(fields) == 0 || len(fields) > MaxFields {
		return fault.Field1("fields", "there are %d, from 1 to %d", len(fields), MaxFields)
	}
	size := 0
	for k, v := range fields {
		if k == "" || len(k) > 256 {
			return fault.Field1("fields", "a field's name has 1 to 256 bytes")
		}
		size += len(k) + len(v)
	}
	if size > MaxBytes {
		return fault.Field1("fields", "the secret has %d bytes, at most %d", size, MaxBytes)
	}
	return nil
}

// Get reads a version (0 = the newest) and what is known of all.
func (e *Engine) Get(ctx context.Context, path string, n uint32) (map[string][]byte, Version, []Version, error) {
	if err := ident.Path(path); err != nil {
		return nil, Version{}, nil, fault.Field1("path", "%v", err)
	}
	var out map[string][]byte
	var ver Version
	var all []Version
	err := e.b.Read(ctx, func(v *barrier.View) error {
		m, err := e.meta(v, path)
		if err != nil {
			return err
		}
		if n == 0 {
			n = m.Current
		}
		i := slices.IndexFunc(m.Versions, func(x Version) bool { return x.Number == n })
		if i < 0 {
			return fault.New(fault.NotFound, "there is no such secret, or no version %d of it", n)
		}
		ver, all = m.Versions[i], m.Versions
		if ver.Deleted != nil {
			return fault.New(fault.NotFound, "version %d of the secret was deleted", n).WithReason("DELETED")
		}
		b, rev, err := v.Get(e.mount, valuePath(path, n))
		if err != nil {
			return err
		}
		if rev == 0 {
			return barrier.Integrity("version %d of a secret of mount %q is gone", n, e.mount)
		}
		defer clear(b)
		return json.Unmarshal(b, &out)
	})
	return out, ver, all, err
}

// Delete hides versions; none given = the newest.
func (e *Engine) Delete(ctx context.Context, path string, versions []uint32) error {
	if err := ident.Path(path); err != nil {
		return fault.Field1("path", "%v", err)
	}
	return e.b.Write(ctx, func(tx *barrier.Tx) error {
		m, err := e.meta(&tx.View, path)
		if err != nil {
			return err
		}
		if m.Current == 0 {
			return fault.New(fault.NotFound, "there is no such secret")
		}
		now := e.clock.Now().UTC()
		for i := range m.Versions {
			hit := slices.Contains(versions, m.Versions[i].Number) || (len(versions) == 0 && m.Versions[i].Number == m.Current)
			if hit && m.Versions[i].Deleted == nil {
				m.Versions[i].Deleted = &now
			}
		}
		return e.putMeta(tx, path, m)
	})
}

// Paths returns all paths that begin with prefix, sorted.
func (e *Engine) Paths(ctx context.Context, prefix string) ([]string, error) {
	var out []string
	err := e.b.Read(ctx, func(v *barrier.View) error {
		paths, err := v.List(e.mount, metaPrefix+prefix)
		for _, p := range paths {
			out = append(out, strings.TrimPrefix(p, metaPrefix))
		}
		return err
	})
	return out, err
}
