package account

import (
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/keyslot"
)

// Types, statuses and roles.
const (
	Human  = "human"
	System = "system"

	Active   = "active"
	Disabled = "disabled"
	Deleted  = "deleted"

	Admin = "admin"
	User  = "user"
	Guest = "guest"
)

// TagCore marks the platform's own system accounts.
const TagCore = "core"

// Limits.
const (
	MaxName     = 64
	MaxPassword = 1024
	maxTags     = 32
	maxDisplay  = 128
	MaxAccounts = 10000
)

// Account is a person or a service.
type Account struct {
	ID        string
	Name      string
	Display   string
	Email     string
	Type      string
	Status    string
	Epoch     int64
	Roles     []string
	Tags      []string
	Created   time.Time
	LastLogin time.Time
}

// HasRole reports whether the account carries the role.
func (a *Account) HasRole(r string) bool { return slices.Contains(a.Roles, r) }

var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	tagPattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9._:-]{0,63}$`)
)

// CanonicalName lower-cases a submitted name. Anything longer than the limit or not UTF-8 becomes a name that no
// account has, so that it takes the same path as an unknown one.
func CanonicalName(s string) string {
	if len(s) > MaxName {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(s))
}

// CheckName reports what is wrong with an account name.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("use 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit")
	}
	if name == "root" || name == "unknown" || strings.HasPrefix(name, "local") {
		return fmt.Errorf("%q is reserved", name)
	}
	return nil
}

// CheckRole reports whether a role exists.
func CheckRole(r string) error {
	if r != Admin && r != User && r != Guest {
		return fmt.Errorf("%q is none of admin, user, guest", r)
	}
	return nil
}

// Tags sorts, removes doubles and checks tags.
func Tags(tags []string) ([]string, error) {
	out := slices.Compact(slices.Sorted(slices.Values(tags)))
	if len(out) > maxTags {
		return nil, fmt.Errorf("more than %d tags", maxTags)
	}
	for _, t := range out {
		if !tagPattern.MatchString(t) {
			return nil, fmt.Errorf("tag %q: use a-z, 0-9, dot, dash, colon and underscore", t)
		}
	}
	return out, nil
}

// CheckDisplay reports what is wrong with a display name.
func CheckDisplay(s string) error {
	if len(s) > maxDisplay {
		return fmt.Errorf("longer than %d bytes", maxDisplay)
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("holds a control character")
		}
	}
	return nil
}

// CheckEmail reports what is wrong with an address; the empty one is fine.
func CheckEmail(s string) error {
	if s == "" {
		return nil
	}
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || len(s) > 254 {
		return fmt.Errorf("%q is not an e-mail address", s)
	}
	return nil
}

// NormalPassword is the form in which passwords are hashed: NFC. Over-long ones are refused, never cut.
func NormalPassword(pw string) ([]byte, error) {
	if len(pw) > MaxPassword {
		return nil, fmt.Errorf("longer than %d bytes", MaxPassword)
	}
	return norm.NFC.Bytes([]byte(pw)), nil
}

// CheckPassword judges a new password: at least 12 characters, not common, not the account's name. No composition rules.
func CheckPassword(pw []byte, name string) error {
	low := strings.ToLower(string(pw))
	if low == name || strings.ReplaceAll(low, name, "") == "" {
		return fault.Field1("password", "must not be the account's name")
	}
	return keyslot.CheckPassword(pw)
}
