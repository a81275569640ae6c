package keyslot

import (
	"crypto/rand"
	_ "embed"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"metacircular.net/mcdsl/fault"
)

// Secret is what a caller shows to open a slot. Value is the password as UTF-8, the recovery code as printed, or the
// credential's bytes.
type Secret struct {
	Kind  Kind
	Value []byte
}

const (
	minPassword   = 12 // characters
	maxSecret     = 4096
	minCredential = 32
	crockford     = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	codeChars     = 30 // 150 bits
	checkModulus  = 1021
)

// canonicalSecret returns the form that is derived, or an Invalid fault. Errors never contain the secret.
func canonicalSecret(s Secret) ([]byte, error) {
	if len(s.Value) == 0 {
		return nil, fault.Field1("secret", "is empty")
	}
	if len(s.Value) > maxSecret {
		return nil, fault.Field1("secret", "is longer than %d bytes", maxSecret)
	}
	switch s.Kind {
	case Password:
		if !utf8.Valid(s.Value) {
			return nil, fault.Field1("secret", "the password is not UTF-8")
		}
		// Always a copy: Bytes returns its argument when there is nothing to do, and the caller's stays his to wipe.
		return norm.NFC.Append(nil, s.Value...), nil
	case Recovery:
		code, err := parseCode(string(s.Value))
		return []byte(code), err
	case Credential:
		if len(s.Value) < minCredential {
			return nil, fault.Field1("secret", "a credential has at least %d bytes, this one %d", minCredential, len(s.Value))
		}
		return append([]byte(nil), s.Value...), nil
	}
	return nil, fault.Field1("kind", "%q is not password, recovery or credential", string(s.Kind))
}

//go:embed common.txt
var common string

// CheckPassword refuses a new password that is too short or too common.
func CheckPassword(password []byte) error {
	if !utf8.Valid(password) {
		return fault.Field1("password", "is not UTF-8")
	}
	pw := norm.NFC.String(string(password))
	if n := utf8.RuneCountInString(pw); n < minPassword {
		return fault.Field1("password", "has %d characters; choose at least %d", n, minPassword)
	}
	distinct := map[rune]bool{}
	for _, r := range pw {
		distinct[r] = true
	}
	if len(distinct) < 5 {
		return fault.Field1("password", "repeats a few characters; choose several words instead")
	}
	lower := strings.ToLower(pw)
	for line := range strings.Lines(common) {
		if strings.TrimSpace(line) == lower {
			return fault.Field1("password", "is on the list of common passwords; choose several words instead")
		}
	}
	return nil
}

// NewRecoveryCode returns a fresh recovery code, for a service that makes its rows itself with NewRow.
func NewRecoveryCode() string { return newCode() }

// newCode returns a recovery code: 150 random bits as 30 characters, 2 check characters, in groups of 4.
func newCode() string {
	buf := make([]byte, codeChars)
	_, _ = rand.Read(buf) // never fails: it ends the process instead
	b := make([]byte, 0, codeChars+2)
	for _, x := range buf {
		b = append(b, crockford[x&31])
	}
	c := check(string(b))
	b = append(b, crockford[c>>5], crockford[c&31])
	var out strings.Builder
	for i := 0; i < len(b); i += 4 {
		if i > 0 {
			out.WriteByte('-')
		}
		out.Write(b[i : i+4])
	}
	return out.String()
}

// check is the code's value modulo a prime above 32^2/2: it finds every single wrong character and every two
// exchanged ones.
func check(chars string) int {
	v := 0
	for _, ch := range []byte(chars) {
		v = (v*32 + strings.IndexByte(crockford, ch)) % checkModulus
	}
	return v
}

// parseCode returns the 30 characters of a recovery code in canonical form. Typing errors are found here, before an
// attempt is counted.
func parseCode(s string) (string, error) {
	var b []byte
	for _, r := range strings.ToUpper(s) {
		switch r {
		case '-', ' ', '\t', '\r', '\n':
			continue
		case 'O':
			r = '0'
		case 'I', 'L':
			r = '1'
		}
		if r > 127 || strings.IndexByte(crockford, byte(r)) < 0 {
			return "", fault.Field1("secret", "the recovery code has a character that no code has")
		}
		b = append(b, byte(r))
	}
	if len(b) != codeChars+2 {
		return "", fault.Field1("secret", "the recovery code has %d characters, not %d", len(b), codeChars+2)
	}
	code := string(b[:codeChars])
	if c := check(code); b[codeChars] != crockford[c>>5] || b[codeChars+1] != crockford[c&31] {
		return "", fault.Field1("secret", "the recovery code has a typing error; compare it group by group")
	}
	return code, nil
}
