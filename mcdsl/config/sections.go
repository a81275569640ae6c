package config

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"metacircular.net/mcdsl/fault"
)

// Server is [server]: how the service is reached.
type Server struct {
	ListenAddr     string   `toml:"listen_addr" default:":8443"`                        // HTTPS: REST and pages; empty = none
	GRPCAddr       string   `toml:"grpc_addr" default:":9443"`                          // gRPC with TLS; empty = none
	TLSCert        string   `toml:"tls_cert" default:"certs/{service}.pem" path:"true"` // full chain, reloads itself
	TLSKey         string   `toml:"tls_key" default:"certs/{service}.key" path:"true"`
	Socket         string   `toml:"socket" default:"/run/mc/{service}.sock" path:"true"`
	TrustedProxies []string `toml:"trusted_proxies" reload:"true"` // addresses or prefixes that may send a PROXY header
	MaxBody        Size     `toml:"max_body" default:"1MiB"`
	HostNames      []string `toml:"host_names"`                 // names answered besides those of the certificate; others get 421
	LocalAdmins    []string `toml:"local_admins"`               // users (name or uid) that count as root on the socket
	ProxyKeyFile   string   `toml:"proxy_key_file" path:"true"` // the node's hop key; a PROXY header must carry it
}

// Validate checks what can be checked without the network.
func (s Server) Validate() error {
	f := fault.New(fault.Invalid, "[server] cannot be used")
	checkAddr(f, "server.listen_addr", s.ListenAddr)
	checkAddr(f, "server.grpc_addr", s.GRPCAddr)
	for _, p := range s.TrustedProxies {
		if _, err := ParsePrefix(p); err != nil {
			f.WithField("server.trusted_proxies", "%q is no address or prefix", p)
		}
	}
	return orNil(f)
}

// Proxies returns the trusted proxies as prefixes; Validate has refused what is none.
func (s Server) Proxies() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s.TrustedProxies {
		if pr, err := ParsePrefix(p); err == nil {
			out = append(out, pr)
		}
	}
	return out
}

// Database is [database].
type Database struct {
	Path        string `toml:"path" default:"{service}.db" path:"true"`
	Readers     int    `toml:"readers" default:"4"`
	Synchronous string `toml:"synchronous" default:"full"` // full, or normal: the last commits may be lost at a power cut
}

// Validate checks the numbers.
func (d Database) Validate() error {
	f := fault.New(fault.Invalid, "[database] cannot be used")
	if d.Path == "" {
		f.WithField("database.path", "is empty")
	}
	if d.Readers < 1 || d.Readers > 64 {
		f.WithField("database.readers", "%d is not between 1 and 64", d.Readers)
	}
	if d.Synchronous != "full" && d.Synchronous != "normal" {
		f.WithField("database.synchronous", "%q is not full or normal", d.Synchronous)
	}
	return orNil(f)
}

// MCIAS is [mcias]: where identity comes from.
type MCIAS struct {
	ServerURL   string `toml:"server_url"`                       // https://mcias.<domain>[:port], also the token issuer
	GRPCAddr    string `toml:"grpc_addr"`                        // empty = the host of server_url, port 9443; see GRPC
	CACert      string `toml:"ca_cert" path:"true"`              // root of the platform, PEM
	ServiceName string `toml:"service_name" default:"{service}"` // the audience this service accepts
	KeyFile     string `toml:"key_file" path:"true"`             // service key, JSON, 0600; may come later
}

// GRPC returns the address of MCIAS's gRPC listener, or "" if there is no server_url.
func (m MCIAS) GRPC() string {
	if m.GRPCAddr != "" {
		return m.GRPCAddr
	}
	u, err := url.Parse(m.ServerURL)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), "9443")
}

// Validate checks the URL; an empty section means a service that only answers public and local calls.
func (m MCIAS) Validate() error {
	f := fault.New(fault.Invalid, "[mcias] cannot be used")
	if m.ServerURL != "" {
		u, err := url.Parse(m.ServerURL)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" {
			f.WithField("mcias.server_url", "%q is no https URL", m.ServerURL)
		}
		if m.CACert == "" {
			f.WithField("mcias.ca_cert", "is needed with server_url")
		}
	}
	checkAddr(f, "mcias.grpc_addr", m.GRPCAddr)
	return orNil(f)
}

// Log is [log].
type Log struct {
	Level  string `toml:"level" default:"info" reload:"true"`
	Format string `toml:"format" default:"auto"`
}

// Metrics is [metrics].
type Metrics struct {
	Addr string `toml:"addr"` // empty = none; only loopback or a private address
}

// Validate refuses a public address: metrics have no login.
func (m Metrics) Validate() error {
	if m.Addr == "" {
		return nil
	}
	ap, err := netip.ParseAddrPort(m.Addr)
	if err != nil {
		return fault.Field1("metrics.addr", "%q is no IP address with port", m.Addr)
	}
	if a := ap.Addr().Unmap(); !a.IsLoopback() && !a.IsPrivate() && !cgnat.Contains(a) {
		return fault.Field1("metrics.addr", "%s is not a loopback or overlay address", a)
	}
	return nil
}

var cgnat = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598, where overlays live

// Backup is [backup].
type Backup struct {
	Every Duration `toml:"every" default:"24h" reload:"true"`
	Keep  int      `toml:"keep" default:"7" reload:"true"` // verified snapshots
}

// Auth is [auth]: budgets for stale revocations; they may be lowered here, never raised past MCIAS's own.
type Auth struct {
	NormalBudget     Duration `toml:"normal_budget" default:"15m"`
	PrivilegedBudget Duration `toml:"privileged_budget" default:"30s"`
}

// Web is [web].
type Web struct {
	Nav []string `toml:"nav" reload:"true"` // services in the top bar, "name=URL"
}

// ParsePrefix reads a prefix or a single address.
func ParsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// checkAddr notes an address that is not host:port.
func checkAddr(f *fault.Error, name, addr string) {
	if addr == "" {
		return
	}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		f.WithField(name, "%q is not HOST:PORT or :PORT", addr)
	}
}

// orNil returns f if it has fields; the message then lists them.
func orNil(f *fault.Error) error {
	if len(f.Fields) == 0 {
		return nil
	}
	var parts []string
	for _, fd := range f.Fields {
		parts = append(parts, fd.Name+": "+fd.Problem)
	}
	f.Message = strings.Join(parts, "; ")
	return f
}
