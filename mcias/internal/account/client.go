package account

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Client kinds.
const (
	KindService = "service"
	KindWeb     = "web"
	KindNative  = "native"
	KindSPA     = "spa"
	KindTest    = "test"
)

// Client is something people sign in to. Its id is the service name of policy and aud.
type Client struct {
	ID         string
	Kind       string
	Owner      string // account id; empty = the operator
	OwnerName  string
	SecretHash []byte
	Redirects  []string
	PostLogout []string
	Tags       []string
	Enabled    bool
	Created    time.Time
}

// Public reports whether the client has no secret by nature.
func (c *Client) Public() bool {
	return c.Kind == KindNative || c.Kind == KindSPA || c.Kind == KindTest
}

// MaxRedirects is how many redirect URIs a client may have.
const MaxRedirects = 20

// A client id is URL-safe, because many clients do not form-encode it in Basic as RFC 6749 wants; mcp/<node> has a slash.
var clientPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63})?$`)

// CheckClientID reports what is wrong with a client id.
func CheckClientID(id string) error {
	if !clientPattern.MatchString(id) {
		return fmt.Errorf("use 1 to 64 of a-z, 0-9, dot, dash and underscore, beginning with a letter or digit")
	}
	return nil
}

// CheckKind reports whether a client kind exists.
func CheckKind(k string) error {
	if !slices.Contains([]string{KindService, KindWeb, KindNative, KindSPA, KindTest}, k) {
		return fmt.Errorf("%q is none of service, web, native, spa, test", k)
	}
	return nil
}

// CheckRedirect reports what is wrong with a redirect URI of a client of this kind. http only on loopback.
func CheckRedirect(kind, s string) error {
	if len(s) > 512 {
		return fmt.Errorf("longer than 512 bytes")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || !u.IsAbs() || u.Host == "" || u.Opaque != "":
		return fmt.Errorf("%q is not an absolute URL", s)
	case u.Fragment != "" || strings.Contains(s, "#"):
		return fmt.Errorf("%q has a fragment", s)
	case u.User != nil:
		return fmt.Errorf("%q holds a user name", s)
	case u.String() != s || strings.Contains(s, "..") || strings.Contains(s, "*") || strings.ContainsAny(s, " \\"):
		return fmt.Errorf("%q is not in its plain form", s)
	case u.Host != strings.ToLower(u.Host):
		return fmt.Errorf("%q: the host has capitals", s)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("%q: only https, or http on 127.0.0.1 and [::1]", s)
}

func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && (a == netip.MustParseAddr("127.0.0.1") || a == netip.IPv6Loopback())
}

// RedirectAllowed reports whether uri is one of the client's, byte for byte; a native client on loopback may vary the port.
func (c *Client) RedirectAllowed(uri string) bool {
	if slices.Contains(c.Redirects, uri) {
		return true
	}
	if c.Kind != KindNative {
		return false
	}
	got, err := url.Parse(uri)
	if err != nil || CheckRedirect(c.Kind, uri) != nil || got.Scheme != "http" || !isLoopback(got.Hostname()) || got.Port() == "" {
		return false
	}
	for _, r := range c.Redirects {
		want, err := url.Parse(r)
		if err == nil && want.Scheme == "http" && isLoopback(want.Hostname()) && want.Hostname() == got.Hostname() &&
			want.EscapedPath() == got.EscapedPath() && want.RawQuery == got.RawQuery {
			return true
		}
	}
	return false
}

// ServiceKey is one public key of a system account.
type ServiceKey struct {
	Account  string // account id
	KID      string
	Public   []byte
	Services []string
	Created  time.Time
	NotAfter time.Time // zero = until retired
	Retired  time.Time // zero = live
}

// Live reports whether the key may be used now.
func (k *ServiceKey) Live(now time.Time) bool {
	return k.Retired.IsZero() && (k.NotAfter.IsZero() || now.Before(k.NotAfter))
}
