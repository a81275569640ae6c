// Package snapshot is the file that is served: all zones as they were last acknowledged, read before the
// database opens. It holds no secret.
//
// Format: eight bytes of magic, the SHA-256 of the rest, JSON. The former generation is kept beside it.
package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"

	"metacircular.net/mcns/internal/zone"
)

const (
	magic   = "MCNSNAP1"
	maxSize = 1 << 30
)

// State is what is served.
type State struct {
	Time  time.Time    `json:"time"`
	Zones []*zone.Zone `json:"zones"`
	// Gone keeps the last serial of deleted zones: a zone made again starts above it.
	Gone map[string]uint32 `json:"gone,omitempty"`
}

// Previous is the name of the former generation.
func Previous(path string) string { return path + ".prev" }

// Write puts a state in place, durably, and keeps the former one.
func Write(path string, s *State) error {
	body, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	sum := sha256.Sum256(body)
	if err := os.Rename(path, Previous(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return secret.WriteFile(path, append(append([]byte(magic), sum[:]...), body...))
}

// Read returns the newest state that is whole; fs.ErrNotExist if there never was one.
func Read(path string) (*State, error) {
	s, err := read(path)
	if err == nil {
		return s, nil
	}
	prev, perr := read(Previous(path))
	if perr == nil {
		return prev, nil
	}
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(perr, fs.ErrNotExist) {
		return nil, perr
	}
	return nil, err
}

func read(path string) (*State, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSize))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return Parse(b)
}

// Parse checks and decodes the bytes of a snapshot.
func Parse(b []byte) (*State, error) {
	head := len(magic) + sha256.Size
	if len(b) < head || string(b[:len(magic)]) != magic {
		return nil, fault.New(fault.Precondition, "this is no snapshot of MCNS").WithReason("BAD_SNAPSHOT")
	}
	if sum := sha256.Sum256(b[head:]); !bytes.Equal(sum[:], b[len(magic):head]) {
		return nil, fault.New(fault.Precondition, "the snapshot is damaged").WithReason("BAD_SNAPSHOT")
	}
	var s State
	if err := json.Unmarshal(b[head:], &s); err != nil {
		return nil, fault.New(fault.Precondition, "the snapshot cannot be read").WithReason("BAD_SNAPSHOT").Wrap(err)
	}
	for _, z := range s.Zones {
		if z == nil {
			return nil, fault.New(fault.Precondition, "the snapshot names no zone where it should").WithReason("BAD_SNAPSHOT")
		}
	}
	return &s, nil
}
