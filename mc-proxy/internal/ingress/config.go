package ingress

import (
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"metacircular.net/mc-proxy/internal/accesslog"
	"metacircular.net/mc-proxy/internal/l7"
	"metacircular.net/mc-proxy/internal/table"
	"metacircular.net/mc-proxy/internal/telemetry"
	"metacircular.net/mc-proxy/internal/traffic"
	"metacircular.net/mc-proxy/internal/upstream"
)

// Kind is what a listener does.
type Kind string

// The kinds.
const (
	TLS      Kind = "tls"
	Redirect Kind = "redirect"
)

// Listener is the definition of one listener.
type Listener struct {
	Name           string
	Kind           Kind
	Addrs          []string
	MaxConnections int  // 0: only the cap of the process
	ProxyProtocol  bool // every connection begins with a PROXY header
	Trusted        []netip.Prefix
	HopKey         []byte
	Forwarders     []netip.Prefix
	Rules          l7.Rules // of a redirect listener
}

// Trusts reports whether a TCP peer may send PROXY headers.
func (l Listener) Trusts(peer netip.Addr) bool { return contains(l.Trusted, peer) }

func contains(set []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	return slices.ContainsFunc(set, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Limits bound what clients can make the proxy hold.
type Limits struct {
	MaxConnections int
	PerSource      int            // connections of one v4 address or v6 /64 at once
	Exempt         []netip.Prefix // sources without a limit
	Handshakes     int            // TLS handshakes in progress at once
}

// Rule allows or denies a source; the first that matches decides.
type Rule struct {
	Allow  bool
	Prefix netip.Prefix
	Note   string
}

// Timeouts of the data path.
type Timeouts struct {
	Hello, Handshake, Connect, Idle, Linger time.Duration
}

// Config is everything a Server needs.
type Config struct {
	Snapshot func() *table.Snapshot
	Dialer   *upstream.Dialer
	HopKey   func(file string) ([]byte, error) // of routes with proxy_out
	Conns    *traffic.Table
	Access   *accesslog.Log
	Metrics  *telemetry.Metrics
	Log      *slog.Logger
	Now      func() time.Time
}

// Settings are what a reload may change beside the listeners.
type Settings struct {
	Limits      Limits
	Timeouts    Timeouts
	Rules       []Rule
	DefaultDeny bool
}

// Admit judges a source before a byte of it is read: the rules in order, then the default. The index of the deciding
// rule is -1 when the default decided.
func (s *Settings) Admit(client netip.Addr) (allowed bool, rule int) {
	client = client.Unmap()
	for i, r := range s.Rules {
		if r.Prefix.Contains(client) {
			return r.Allow, i
		}
	}
	return !s.DefaultDeny, -1
}

// Exempt reports whether a source has no limit.
func (s *Settings) Exempt(client netip.Addr) bool { return contains(s.Limits.Exempt, client) }
