package image

import (
	_ "crypto/sha256" // makes the algorithm available to go-digest
	_ "crypto/sha512" // makes the algorithm available to go-digest
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// MaxName is the longest repository name; many clients limit host and name together to 255.
const MaxName = 255

// Both expressions are the distribution specification's own.
var (
	nameExp = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagExp  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// CheckRepository returns an error that says what is wrong with a repository name.
func CheckRepository(name string) error {
	switch {
	case name == "":
		return errors.New("a repository name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("a repository name of %d characters; at most %d", len(name), MaxName)
	case !nameExp.MatchString(name):
		return errors.New("a repository name is lower-case letters, digits and single separators . _ - in segments divided by /")
	}
	return nil
}

// CheckTag returns an error that says what is wrong with a tag.
func CheckTag(tag string) error {
	if !tagExp.MatchString(tag) {
		return errors.New("a tag is 1 to 128 letters, digits, dots, underscores and hyphens, and begins with a letter, digit or underscore")
	}
	return nil
}

// ParseDigest reads a digest of one of the algorithms served here: sha256 and sha512.
func ParseDigest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return "", fmt.Errorf("digest %.100q: %w", s, err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return "", fmt.Errorf("digest algorithm %q is not served; sha256 and sha512 are", a)
	}
	return d, nil
}

// IsDigest reports whether a reference has the form of a digest rather than of a tag: tags hold no colon.
func IsDigest(ref string) bool {
	return strings.IndexByte(ref, ':') >= 0
}

// ParseReference splits [host/]name[:tag][@digest] as people write it. A first segment with a dot, a colon or
// the name localhost is a host, as every client reads it.
func ParseReference(s string) (host, name, tag string, dgst digest.Digest, err error) {
	rest := s
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if dgst, err = ParseDigest(rest[i+1:]); err != nil {
			return "", "", "", "", err
		}
		rest = rest[:i]
	}
	if i := strings.IndexByte(rest, '/'); i > 0 {
		if first := rest[:i]; first == "localhost" || strings.IndexByte(first, '.') >= 0 || strings.IndexByte(first, ':') >= 0 {
			host, rest = first, rest[i+1:]
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && strings.IndexByte(rest[i:], '/') < 0 {
		tag, rest = rest[i+1:], rest[:i]
		if err := CheckTag(tag); err != nil {
			return "", "", "", "", fmt.Errorf("%q: %w", s, err)
		}
	}
	if err := CheckRepository(rest); err != nil {
		return "", "", "", "", fmt.Errorf("%q: %w", s, err)
	}
	return host, rest, tag, dgst, nil
}
