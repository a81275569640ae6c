// Package table is the decision: which route a client belongs to, and what becomes of it.
//
// A Snapshot is one immutable value per generation. The data path and explain call the same functions on it, so
// that explain cannot tell another story than what happens. Nothing here does I/O, waits, or counts.
package table

import (
	"crypto/tls"
	"strings"

	"metacircular.net/mc-proxy/internal/certs"
	"metacircular.net/mc-proxy/internal/hello"
	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/upstream"
)

// Snapshot is the table at one generation with the live parts of its routes.
type Snapshot struct {
	Generation int64
	Index      *route.Index
	Live       map[int64]*upstream.Route
	Certs      map[int64]*certs.Cert // of L7 routes
	TLS        map[int64]*tls.Config // of L7 routes, each with ticket keys of its own
}

// Reason is a word of the rejected_total metric.
type Reason string

// Reasons for which a connection is refused.
const (
	Pass           Reason = ""
	MaxConns       Reason = "max_conns"
	PerSource      Reason = "per_source"
	UntrustedProxy Reason = "untrusted_proxy"
	BadProxy       Reason = "bad_proxy"
	BadHello       Reason = "bad_hello"
	NotTLS         Reason = "not_tls"
	NoSNI          Reason = "no_sni"
	NoRoute        Reason = "no_route"
	Timeout        Reason = "timeout"
	DenyIP         Reason = "deny_ip"
	DenyCIDR       Reason = "deny_cidr"
)

// Match returns the route for a client of a listener, or why there is none. An L7 route that covers many names
// refuses those its certificate does not cover.
func (s *Snapshot) Match(listener string, o route.Offer) (*route.Route, Reason) {
	r := s.Index.Lookup(listener, o)
	if r == nil {
		if o.Name == "" {
			return nil, NoSNI
		}
		return nil, NoRoute
	}
	if r.Spec.Mode == route.L7 && strings.HasPrefix(r.Spec.Hostname, "*.") {
		if c := s.Certs[r.ID]; c != nil && !c.Covers(o.Name) {
			return nil, NoRoute
		}
	}
	return r, Pass
}

// Host returns the route that a request's Host belongs to on a connection that was accepted for route id, nil
// when it is another's: that request must be answered 421 (misdirected). On @default and @nosni any name is
// served that no other route owns.
func (s *Snapshot) Host(listener string, id int64, host string, alpn []string) *route.Route {
	r := s.Index.Get(id)
	if r == nil {
		return nil
	}
	special := r.Spec.Hostname == route.Default || r.Spec.Hostname == route.NoSNI
	name, ok := HostName(host)
	if !ok {
		if special {
			return r // an address, as a client without SNI sends it
		}
		return nil
	}
	owner := s.Index.Lookup(listener, route.Offer{Name: name, ALPN: alpn})
	switch {
	case owner == nil && special, owner == r:
		return r
	case owner != nil && special && owner.Spec.Hostname == route.Default:
		return r
	}
	return nil
}

// HostName brings a Host header into the form of a server name: without port and trailing dot, lower-case.
func HostName(host string) (string, bool) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return hello.NormaliseName(host)
}
