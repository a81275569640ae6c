package hashpool

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Params are the costs of one hash.
type Params struct {
	MemoryKiB uint32
	Time      uint32
	Threads   uint8
}

// Default is RFC 9106's second choice.
func Default() Params { return Params{MemoryKiB: 64 << 10, Time: 3, Threads: 4} }

// Bounds of parameters: below the floor a configuration is refused, above the cap a stored hash is not computed.
const (
	FloorMemoryKiB = 19 << 10
	FloorTime      = 2
	capMemoryKiB   = 256 << 10
	capTime        = 10
	capThreads     = 8
	saltLen        = 16
	keyLen         = 32
)

// Check refuses parameters below the floor or above the cap.
func (p Params) Check() error {
	switch {
	case p.MemoryKiB < FloorMemoryKiB || p.Time < FloorTime || p.Threads < 1:
		return fmt.Errorf("argon2: below 19 MiB, t=2, p=1")
	}
	return p.cap()
}

func (p Params) cap() error {
	if p.MemoryKiB > capMemoryKiB || p.Time > capTime || p.Threads > capThreads || p.Time < 1 || p.Threads < 1 || p.MemoryKiB < 8*uint32(p.Threads) {
		return fmt.Errorf("argon2: parameters outside 256 MiB, t=10, p=8")
	}
	return nil
}

// phc is a parsed PHC string.
type phc struct {
	Params
	salt, key []byte
}

var errPHC = errors.New("not an argon2id hash")

// parsePHC reads $argon2id$v=19$m=65536,t=3,p=4$salt$key with bounded parameters.
func parsePHC(s string) (phc, error) {
	var h phc
	if len(s) > 256 {
		return h, errPHC
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return h, errPHC
	}
	var vals [3]uint64
	fields := strings.Split(parts[3], ",")
	if len(fields) != 3 {
		return h, errPHC
	}
	for i, name := range []string{"m=", "t=", "p="} {
		text, ok := strings.CutPrefix(fields[i], name)
		n, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil || strconv.FormatUint(n, 10) != text {
			return h, errPHC
		}
		vals[i] = n
	}
	if vals[2] > capThreads {
		return h, errPHC
	}
	h.Params = Params{MemoryKiB: uint32(vals[0]), Time: uint32(vals[1]), Threads: uint8(vals[2])}
	if err := h.cap(); err != nil {
		return h, err
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err != nil || len(h.salt) < 8 || len(h.salt) > 64 {
		return h, errPHC
	}
	if h.key, err = base64.RawStdEncoding.Strict().DecodeString(parts[5]); err != nil || len(h.key) < 16 || len(h.key) > 64 {
		return h, errPHC
	}
	return h, nil
}

func (h phc) String() string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", h.MemoryKiB, h.Time, h.Threads, b.EncodeToString(h.salt), b.EncodeToString(h.key))
}

func (h phc) matches(password []byte) bool {
	got := argon2.IDKey(password, h.salt, h.Time, h.MemoryKiB, h.Threads, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(got, h.key) == 1
}

func newPHC(p Params, password []byte) phc {
	h := phc{Params: p, salt: make([]byte, saltLen)}
	_, _ = rand.Read(h.salt) // never fails since Go 1.24
	h.key = argon2.IDKey(password, h.salt, p.Time, p.MemoryKiB, p.Threads, keyLen)
	return h
}
