package app

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"metacircular.net/mcdsl/secret"

	"metacircular.net/mc-proxy/internal/proxyhdr"
)

// keyAge is how long a hop key is used before its file is looked at again.
const keyAge = 5 * time.Second

// keys reads hop keys from their files and keeps them for a moment: a route reads its key for every connection.
type keys struct {
	dir string
	now func() time.Time

	mu   sync.Mutex
	have map[string]cachedKey // bounded by the files that routes name
}

type cachedKey struct {
	key []byte
	at  time.Time
}

// read returns the key in file, which is absolute or relative to the service's folder. A file that is replaced is seen
// within seconds; one that vanished keeps serving what was read, so that a slip does not cut the core off.
func (k *keys) read(file string) ([]byte, error) {
	if !filepath.IsAbs(file) {
		file = filepath.Join(k.dir, file)
	}
	now := k.now()
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok := k.have[file]
	if ok && now.Sub(c.at) < keyAge {
		return c.key, nil
	}
	key, err := readKey(file)
	if err != nil {
		if ok {
			c.at = now
			k.have[file] = c
			return c.key, nil
		}
		return nil, err
	}
	k.have[file] = cachedKey{key, now}
	return key, nil
}

// readKey reads 32 bytes, raw or as 64 hex digits.
func readKey(file string) ([]byte, error) {
	v, err := secret.ReadFile(file)
	if err != nil {
		return nil, err
	}
	raw := v.Reveal()
	if len(raw) == proxyhdr.KeySize {
		return raw, nil
	}
	if key, err := hex.DecodeString(strings.TrimSpace(string(raw))); err == nil && len(key) == proxyhdr.KeySize {
		return key, nil
	}
	return nil, fmt.Errorf("%s holds no key: want %d bytes, or %d hex digits", filepath.Base(file), proxyhdr.KeySize, 2*proxyhdr.KeySize)
}

// check refuses a file that cannot be used as a key.
func (k *keys) check(file string) error {
	if !filepath.IsAbs(file) {
		file = filepath.Join(k.dir, file)
	}
	_, err := readKey(file)
	return err
}
