package route

import (
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/hello"
)

// Limits of the table.
const (
	MaxRoutes   = 10000
	MaxBackends = 64
)

// Defaults of a check.
const (
	DefaultInterval = 5 * time.Second
	DefaultTimeout  = 2 * time.Second
)

// Normalise fills in defaults, brings names into the form they are compared in, and refuses what can
// never work, with the field and the reason.
func Normalise(s Spec) (Spec, error) {
	s.Backends = slices.Clone(s.Backends)
	for _, step := range []func(*Spec) error{normaliseKey, normaliseMode, normaliseBackends, normaliseTimes} {
		if err := step(&s); err != nil {
			return Spec{}, err
		}
	}
	return s, nil
}

func normaliseKey(s *Spec) error {
	if s.Listener == "" {
		return fault.Field1("listener", "name a listener of kind tls")
	}
	if s.Owner == "" {
		s.Owner = OwnerOperator
	}
	if len(s.Owner) > 64 || strings.ContainsAny(s.Owner, "/ \t\n") {
		return fault.Field1("owner", "at most 64 characters without spaces and slashes")
	}
	if len(s.ALPN) > 255 {
		return fault.Field1("alpn", "at most 255 bytes")
	}
	switch {
	case s.Hostname == Default, s.Hostname == NoSNI:
		return nil
	case strings.HasPrefix(s.Hostname, "@"):
		return fault.Field1("hostname", "%q is none of @default, @nosni", s.Hostname)
	}
	name, wild := strings.CutPrefix(s.Hostname, "*.")
	n, ok := hello.NormaliseName(name)
	if !ok {
		return fault.Field1("hostname", "%q is no host name, *.suffix, @default or @nosni", s.Hostname)
	}
	if s.Hostname = n; wild {
		s.Hostname = "*." + n
	}
	return nil
}

func normaliseMode(s *Spec) error {
	if s.Proto == "" {
		s.Proto = Auto
	}
	if s.ProxyOut == "" {
		s.ProxyOut = ProxyNone
	}
	switch s.ProxyOut {
	case ProxyNone, ProxyV1, ProxyV2:
	default:
		return fault.Field1("proxy_out", "%q is none of none, v1, v2", string(s.ProxyOut))
	}
	if s.ProxyKey != "" && s.ProxyOut != ProxyV2 {
		return fault.Field1("proxy_key", "only version 2 headers carry a hop key; set proxy_out to v2")
	}
	switch s.Proto {
	case Auto, H1, H2, H2C:
	default:
		return fault.Field1("proto", "%q is none of auto, h1, h2, h2c", string(s.Proto))
	}
	switch s.Mode {
	case L4:
		if s.TLSCert != "" || s.TLSKey != "" || s.BackendTLS || s.Proto != Auto || s.HSTS != 0 {
			return fault.Field1("mode", "an l4 route passes the stream on untouched; certificate, proto, backend_tls and hsts belong to l7")
		}
		return nil
	case L7:
	default:
		return fault.Field1("mode", "%q is none of l4, l7", string(s.Mode))
	}
	if s.ProxyOut != ProxyNone {
		return fault.Field1("proxy_out", "an l7 route tells the client's address in X-Forwarded-For")
	}
	if s.TLSCert == "" {
		return fault.Field1("tls_cert", "an l7 route needs a certificate file inside cert_dir")
	}
	for field, name := range map[string]string{"tls_cert": s.TLSCert, "tls_key": s.TLSKey} {
		if name != "" && !filepath.IsLocal(name) {
			return fault.Field1(field, "%q leaves cert_dir", name)
		}
	}
	if s.BackendTLS && s.Proto == H2C || !s.BackendTLS && s.Proto == H2 {
		return fault.Field1("proto", "h2 is HTTP/2 over TLS, h2c without; set backend_tls to match")
	}
	return nil
}

func normaliseBackends(s *Spec) error {
	if len(s.Backends) > MaxBackends {
		return fault.Field1("backends", "at most %d", MaxBackends)
	}
	seen := map[string]bool{}
	for i := range s.Backends {
		b := &s.Backends[i]
		addr, err := NormaliseAddr(b.Addr)
		if err != nil {
			return err
		}
		b.Addr = addr
		if b.Weight < 0 || b.Weight > 100 {
			return fault.Field1("backends", "weight %d of %s is not within 0-100", b.Weight, addr)
		}
		if seen[addr] {
			return fault.Field1("backends", "%s is given twice", addr)
		}
		seen[addr] = true
	}
	slices.SortFunc(s.Backends, func(a, b Backend) int { return strings.Compare(a.Addr, b.Addr) })
	return nil
}

// NormaliseAddr brings a backend address into the form in which addresses are compared.
func NormaliseAddr(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return "", fault.Field1("backends", "%q is no host:port", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fault.Field1("backends", "%q has no port within 1-65535", addr)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return net.JoinHostPort(ip.Unmap().String(), port), nil
	}
	name, ok := hello.NormaliseName(host)
	if !ok {
		return "", fault.Field1("backends", "%q is neither an address nor a host name", host)
	}
	return net.JoinHostPort(name, port), nil
}

func normaliseTimes(s *Spec) error {
	if s.Check.Kind == "" {
		s.Check.Kind = CheckTCP
	}
	switch s.Check.Kind {
	case CheckTCP, CheckTLS, CheckGRPC, CheckNone:
		s.Check.Path = ""
	case CheckHTTP:
		if s.Check.Path == "" {
			s.Check.Path = "/"
		}
		if !strings.HasPrefix(s.Check.Path, "/") {
			return fault.Field1("check.path", "%q does not begin with a slash", s.Check.Path)
		}
	default:
		return fault.Field1("check.kind", "%q is none of tcp, tls, http, grpc, none", string(s.Check.Kind))
	}
	if s.Check.Interval == 0 {
		s.Check.Interval = DefaultInterval
	}
	if s.Check.Timeout == 0 {
		s.Check.Timeout = DefaultTimeout
	}
	if s.Check.Interval < 100*time.Millisecond || s.Check.Interval > time.Hour {
		return fault.Field1("check.interval", "not within 100ms-1h")
	}
	if s.Check.Timeout < 10*time.Millisecond || s.Check.Timeout > time.Minute {
		return fault.Field1("check.timeout", "not within 10ms-1m")
	}
	if s.LeaseTTL < 0 || s.LeaseTTL > 24*time.Hour {
		return fault.Field1("lease_ttl", "not within 0-24h")
	}
	if s.HSTS < 0 {
		return fault.Field1("hsts", "negative")
	}
	for field, d := range map[string]time.Duration{"timeouts.connect": s.Timeouts.Connect, "timeouts.idle": s.Timeouts.Idle, "timeouts.response_header": s.Timeouts.ResponseHeader} {
		if d < 0 || d > 24*time.Hour {
			return fault.Field1(field, "not within 0-24h")
		}
	}
	return nil
}
