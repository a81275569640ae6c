package auth

import (
	"encoding/base64"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// b64 is base64url without padding, and refuses the trailing bits that would give one value two spellings.
var b64 = base64.RawURLEncoding.Strict()

// canonical reports whether s is the one spelling of some bytes. The decoder of the standard library skips line
// breaks, hence the look at each character.
func canonical(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	n := len(s) % 4
	if n == 1 {
		return false
	}
	if n == 0 {
		return true
	}
	// Only the last group can hold stray bits.
	var buf [3]byte
	_, err := b64.Decode(buf[:], []byte(s[len(s)-n:]))
	return err == nil
}

func durationProto(d time.Duration) *durationpb.Duration {
	if d <= 0 {
		return nil
	}
	return durationpb.New(d)
}
