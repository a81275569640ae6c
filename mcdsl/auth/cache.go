package auth

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
)

// The cache is an array of sets: a token's hash picks the set, and at most cacheWays tokens live in one. Reading
// takes no lock and bounds itself; a full set evicts at random, so that nobody can aim at an entry.
const (
	cacheSets = 1024
	cacheWays = 8
)

type tokenHash [sha256.Size]byte

// entry is a token that verified once. Only state and clock decide about it from then on.
type entry struct {
	hash   tokenHash
	caller Caller
	exp    int64 // Unix nanoseconds, leeway included
	probes [5]string
	sub    string
	good   atomic.Pointer[state] // the last state under which it was not revoked
}

type cache struct {
	slots [cacheSets * cacheWays]atomic.Pointer[entry]
}

func (c *cache) set(h *tokenHash) []atomic.Pointer[entry] {
	i := int(binary.LittleEndian.Uint16(h[:])) % cacheSets * cacheWays
	return c.slots[i : i+cacheWays]
}

func (c *cache) get(h *tokenHash) *entry {
	set := c.set(h)
	for i := range set {
		if e := set[i].Load(); e != nil && e.hash == *h {
			return e
		}
	}
	return nil
}

// put keeps an entry in place of a free or expired one, else of a random one of its set.
func (c *cache) put(e *entry, now int64) {
	set := c.set(&e.hash)
	for i := range set {
		old := set[i].Load()
		if old == nil || old.exp < now || old.hash == e.hash {
			if set[i].CompareAndSwap(old, e) {
				return
			}
		}
	}
	set[rand.IntN(cacheWays)].Store(e) //nolint:gosec // eviction needs no secret
}

func (c *cache) drop(e *entry) {
	set := c.set(&e.hash)
	for i := range set {
		set[i].CompareAndSwap(e, nil)
	}
}
