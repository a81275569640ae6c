// Package opaque makes and recognises random secrets: sessions, codes, tokens, links, client secrets. They have 256
// random bits, so what is stored is their plain SHA-256; no slow hash is needed. A secret is looked up by the hash of
// its whole text, so a cut or lengthened one is simply another, unknown one.
package opaque

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
)

const size = 32

// maxText bounds what is hashed for a look-up.
const maxText = 256

// New returns a secret, URL-safe, with its hash.
func New() (text string, hash []byte) {
	var b [size]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	text = base64.RawURLEncoding.EncodeToString(b[:])
	return text, Hash(text)
}

// NewPrefixed returns a secret that begins with a prefix people can recognise in a leak.
func NewPrefixed(prefix string) (text string, hash []byte) {
	t, _ := New()
	text = prefix + t
	return text, Hash(text)
}

// Hash returns what is stored. An over-long text hashes to something nothing has.
func Hash(text string) []byte {
	if len(text) > maxText {
		text = ""
	}
	h := sha256.Sum256([]byte(text))
	return h[:]
}

// Equal compares a text with a stored hash in constant time. A nil hash never matches and costs the same.
func Equal(text string, hash []byte) bool {
	got := Hash(text)
	if len(hash) != sha256.Size {
		subtle.ConstantTimeCompare(got, got)
		return false
	}
	return subtle.ConstantTimeCompare(got, hash) == 1
}

// ID returns a random public identifier of 128 bits.
func ID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}
