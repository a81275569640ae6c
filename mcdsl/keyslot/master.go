package keyslot

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync"

	"metacircular.net/mcdsl/fault"
)

// Master is the master key in memory. It is safe for concurrent use. After Close every use fails.
type Master struct {
	mu  sync.RWMutex
	key []byte
}

// NewMaster makes a random master key, for [Reseal].
func NewMaster() *Master {
	key := make([]byte, KeyLen)
	_, _ = rand.Read(key) // never fails: it ends the process instead
	return &Master{key: key}
}

// Use calls f with the key. f must not keep it: it is wiped by Close, which waits for f.
func (m *Master) Use(f func(key []byte) error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.key == nil {
		return fault.New(fault.Unavailable, "the master key is wiped").WithReason("SEALED")
	}
	return f(m.key)
}

// Derive returns n bytes that depend on the key and the label alone. Different labels give independent keys.
func (m *Master) Derive(label string, n int) ([]byte, error) {
	var out []byte
	err := m.Use(func(key []byte) error {
		var err error
		if out, err = hkdf.Key(sha256.New, key, nil, "keyslot/v1 derive "+label, n); err != nil {
			return fmt.Errorf("derive %s: %w", label, err)
		}
		return nil
	})
	return out, err
}

// Close wipes the key. It may be called more than once.
func (m *Master) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.key)
	m.key = nil
}
