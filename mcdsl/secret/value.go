package secret

import (
	"crypto/subtle"
	"fmt"
	"log/slog"
)

// Mask is what a secret looks like wherever somebody tries to print it.
const Mask = "[secret]"

// Value is a secret. The zero value is empty. Copies share the bytes, so Wipe empties them all.
// Safe for concurrent use as long as nobody wipes it.
type Value struct {
	// Behind a function: fmt prints unexported fields without asking their methods, follows pointers
	// for some verbs, but shows of a function only its address.
	box func() *[]byte
}

func hold(b []byte) Value { return Value{box: func() *[]byte { return &b }} }

// New returns a secret that holds its own copy of b.
func New(b []byte) Value {
	return hold(append([]byte(nil), b...))
}

// FromString returns a secret with the bytes of s.
func FromString(s string) Value {
	return hold([]byte(s))
}

// Reveal returns the bytes themselves, not a copy. Whoever calls it answers for where they go.
func (v Value) Reveal() []byte {
	if v.box == nil {
		return nil
	}
	return *v.box()
}

// IsZero reports whether there is no secret.
func (v Value) IsZero() bool { return len(v.Reveal()) == 0 }

// Equal compares in constant time.
func (v Value) Equal(other Value) bool {
	return subtle.ConstantTimeCompare(v.Reveal(), other.Reveal()) == 1
}

// Wipe overwrites the bytes and empties the value and its copies.
func (v Value) Wipe() {
	if v.box == nil {
		return
	}
	b := v.box()
	clear(*b)
	*b = nil
}

// String returns the mask.
func (v Value) String() string { return Mask }

// GoString returns the mask.
func (v Value) GoString() string { return Mask }

// Format writes the mask, whatever the verb.
func (v Value) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Mask)) }

// LogValue returns the mask.
func (v Value) LogValue() slog.Value { return slog.StringValue(Mask) }

// MarshalText returns the mask.
func (v Value) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// MarshalJSON returns the mask.
func (v Value) MarshalJSON() ([]byte, error) { return []byte(`"` + Mask + `"`), nil }
