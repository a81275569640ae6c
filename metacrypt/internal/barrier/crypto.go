package barrier

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/store"
)

const (
	envelope  = 0x02
	nonceLen  = 12
	tagLen    = 16
	keyLen    = 32
	labelData = "metacrypt/v2"
	labelPath = "metacrypt/v2/path"
	labelKey  = "metacrypt/v2/key"
	labelRoot = "metacrypt/v2/root"
	labelRow  = "metacrypt/v2/row"
)

// Integrity is the fault of stored data that is not what was last written. It names mount and kind, never a value.
func Integrity(format string, args ...any) *fault.Error {
	return fault.New(fault.Internal, "integrity: "+format, args...).WithReason("INTEGRITY").
		WithNext("restore the newest verified snapshot: metacrypt restore FILE")
}

// fields joins byte strings, each preceded by its length: joining with a separator would be ambiguous.
func fields(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += 4 + len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = binary.BigEndian.AppendUint32(out, uint32(len(p))) //nolint:gosec // bounded far below
		out = append(out, p...)
	}
	return out
}

func num(n int64) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(n)) //nolint:gosec // a bit pattern
}

// newAEAD is AES-256-GCM that chooses its own nonces: no caller ever does.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("cipher: %w", err)
	}
	return aead, nil
}

// mac is HMAC-SHA256 over length-prefixed fields.
func mac(key []byte, parts ...[]byte) [32]byte {
	h := hmac.New(sha256.New, key)
	h.Write(fields(parts...))
	var out [32]byte
	h.Sum(out[:0])
	return out
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: it ends the process instead
	return b
}

// keyAAD binds a wrapped key to its row.
func keyAAD(k store.Key) []byte {
	return fields([]byte(labelKey), k.ID, k.MountID, []byte(k.Purpose), num(k.Version))
}

// keyDigest is what the integrity root remembers of a key.
func keyDigest(k store.Key) [32]byte {
	return sha256.Sum256(fields(k.ID, k.MountID, []byte(k.Purpose), num(k.Version), k.Wrapped, []byte(k.State)))
}

// mountDigest is what the integrity root remembers of a mount.
func mountDigest(m store.Mount) [32]byte {
	return sha256.Sum256(fields(m.ID, []byte(m.Type), []byte(m.Name)))
}
