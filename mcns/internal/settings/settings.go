// Package settings is mcns.toml. What is needed to serve without a database stands here; zones and
// records do not.
package settings

import (
	"net/netip"
	"strings"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcns/internal/zone"
)

// Config is the whole file.
type Config struct {
	Server    config.Server   `toml:"server"`
	Database  config.Database `toml:"database"`
	MCIAS     config.MCIAS    `toml:"mcias"`
	Log       config.Log      `toml:"log"`
	Metrics   config.Metrics  `toml:"metrics"`
	Backup    config.Backup   `toml:"backup"`
	Auth      config.Auth     `toml:"auth"`
	Web       config.Web      `toml:"web"`
	DNS       DNS             `toml:"dns"`
	Recursion Recursion       `toml:"recursion"`
	Forward   []Forward       `toml:"forward" reload:"true"`
	Cache     Cache           `toml:"cache"`
	Registry  Registry        `toml:"registry"`
}

// DNS is [dns].
type DNS struct {
	Listen       []string `toml:"listen" default:"127.0.0.1:53" reload:"true"` // internal listeners; they may recurse
	PublicListen []string `toml:"public_listen" reload:"true"`                 // never recurse
	UDPSize      int      `toml:"udp_size" default:"1232"`
	NSID         string   `toml:"nsid"`
	TCP          TCP      `toml:"tcp"`
}

// TCP is [dns.tcp].
type TCP struct {
	MaxConns  int             `toml:"max_conns" default:"4096"`
	PerPrefix int             `toml:"per_prefix" default:"128"` // connections of one /24 or /56
	FirstByte config.Duration `toml:"first_byte" default:"2s"`
	Idle      config.Duration `toml:"idle" default:"10s"`
}

// Recursion is [recursion]. Without upstreams it is off.
type Recursion struct {
	Allow     []string `toml:"allow" default:"127.0.0.0/8,::1/128,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7,100.64.0.0/10" reload:"true"`
	Upstreams []string `toml:"upstreams" reload:"true"` // udp://ADDR[:PORT] or tls://ADDR[:PORT]#NAME
}

// Forward is one [[forward]]: a domain with upstreams of its own, without fall-back to the others.
type Forward struct {
	Domain    string   `toml:"domain"`
	Upstreams []string `toml:"upstreams"`
}

// Cache is [cache].
type Cache struct {
	MaxBytes    config.Size     `toml:"max_bytes" default:"32MiB"`
	MaxTTL      config.Duration `toml:"max_ttl" default:"24h"`
	NegativeMax config.Duration `toml:"negative_max" default:"1h"`
	StaleMax    config.Duration `toml:"stale_max" default:"24h"`
}

// Registry is [registry].
type Registry struct {
	Zone  string          `toml:"zone"` // the platform's domain; reserved names are those below it
	TTL   uint32          `toml:"ttl" default:"60"`
	Lease config.Duration `toml:"lease" default:"90s"`
}

// Listeners returns the parsed addresses; Validate has refused what is none.
func Listeners(list []string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range list {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
		}
	}
	return out
}

// Allowed returns the prefixes of clients that may recurse.
func (r Recursion) Allowed() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range r.Allow {
		if p, err := config.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// Validate checks what can be checked without the network; all faults at once.
func (c *Config) Validate() error {
	f := fault.New(fault.Invalid, "mcns.toml cannot be used")
	own := map[netip.AddrPort]bool{}
	for key, list := range map[string][]string{"dns.listen": c.DNS.Listen, "dns.public_listen": c.DNS.PublicListen} {
		for _, s := range list {
			ap, err := netip.ParseAddrPort(s)
			switch {
			case err != nil:
				f.WithField(key, "%q is not ADDRESS:PORT", s)
			case ap.Addr().IsUnspecified():
				f.WithField(key, "%s listens everywhere and collides with the host's own resolver; name the addresses", s)
			case own[ap]:
				f.WithField(key, "%s is there twice", s)
			}
			own[ap] = true
		}
	}
	if c.DNS.UDPSize < 512 || c.DNS.UDPSize > 4096 {
		f.WithField("dns.udp_size", "%d is not between 512 and 4096", c.DNS.UDPSize)
	}
	for _, s := range c.Recursion.Allow {
		if _, err := config.ParsePrefix(s); err != nil {
			f.WithField("recursion.allow", "%q is no prefix", s)
		}
	}
	upstreams := func(key string, list []string) {
		for _, s := range list {
			u, err := ParseUpstream(s)
			if err != nil {
				f.WithField(key, "%s", err.Error())
				continue
			}
			if own[u.Addr] {
				f.WithField(key, "%s is our own listener: queries would go round for ever", s)
			}
		}
	}
	upstreams("recursion.upstreams", c.Recursion.Upstreams)
	for _, fw := range c.Forward {
		if _, err := zone.Canonical(fw.Domain); err != nil || len(fw.Upstreams) == 0 {
			f.WithField("forward", "each needs a domain and upstreams (%q)", fw.Domain)
		}
		upstreams("forward.upstreams", fw.Upstreams)
	}
	if c.Registry.Zone != "" {
		if _, err := zone.Canonical(c.Registry.Zone); err != nil {
			f.WithField("registry.zone", "%q is no domain name", c.Registry.Zone)
		}
	}
	if c.Registry.Lease.D() < 0 || c.Registry.TTL > zone.MaxTTL {
		f.WithField("registry", "lease or ttl is out of range")
	}
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

// Upstream is one server queries are forwarded to.
type Upstream struct {
	Addr netip.AddrPort
	TLS  bool
	Name string // verified name of a TLS upstream
}

// String writes it as configured.
func (u Upstream) String() string {
	if u.TLS {
		return "tls://" + u.Addr.String() + "#" + u.Name
	}
	return "udp://" + u.Addr.String()
}

// ParseUpstream reads udp://ADDR[:PORT], tls://ADDR[:PORT]#NAME or a bare address.
func ParseUpstream(s string) (Upstream, error) {
	var u Upstream
	rest, port := s, uint16(53)
	if r, ok := strings.CutPrefix(s, "tls://"); ok {
		u.TLS, port, rest = true, 853, r
		addr, name, ok := strings.Cut(r, "#")
		if !ok || name == "" {
			return u, fault.New(fault.Invalid, "%q needs the server's name: tls://ADDR#NAME", s)
		}
		rest, u.Name = addr, name
	} else {
		rest = strings.TrimPrefix(s, "udp://")
	}
	if ap, err := netip.ParseAddrPort(rest); err == nil {
		u.Addr = ap
		return u, nil
	}
	rest = strings.Trim(rest, "[]")
	a, err := netip.ParseAddr(rest)
	if err != nil {
		return u, fault.New(fault.Invalid, "%q is not udp://ADDRESS[:PORT] or tls://ADDRESS[:PORT]#NAME", s)
	}
	u.Addr = netip.AddrPortFrom(a, port)
	return u, nil
}
