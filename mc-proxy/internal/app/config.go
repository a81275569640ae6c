package app

import (
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"metacircular.net/mcdsl/config"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/hello"
	"metacircular.net/mc-proxy/internal/ingress"
	"metacircular.net/mc-proxy/internal/l7"
	"metacircular.net/mc-proxy/internal/route"
)

// Name is the service's.
const Name = "mc-proxy"

// agentUID is the agent's on an installed platform.
const agentUID = 855

// Config is the configuration file.
type Config struct {
	Server    Server          `toml:"server"`
	Database  config.Database `toml:"database"`
	Log       config.Log      `toml:"log"`
	Metrics   config.Metrics  `toml:"metrics"`
	Backup    config.Backup   `toml:"backup"`
	Admin     Admin           `toml:"admin"`
	TLS       TLS             `toml:"tls"`
	Proxy     Proxy           `toml:"proxy"`
	Limits    Limits          `toml:"limits"`
	Firewall  Firewall        `toml:"firewall"`
	AccessLog AccessLog       `toml:"access_log"`
	Rules     []Rule          `toml:"rule" reload:"true"`
	Listeners []Listener      `toml:"listener" reload:"true"`
	Routes    []Route         `toml:"route" reload:"true"`
}

// Server is [server]: the proxy is administered over its Unix socket alone.
type Server struct {
	Socket string `toml:"socket" default:"/run/mc/mc-proxy.sock" path:"true"`
}

// Admin is [admin]: users, by name or number, who may use the socket. Root always may write.
type Admin struct {
	Write []string `toml:"write"` // default: the agent's uid
	Read  []string `toml:"read"`
}

// TLS is [tls].
type TLS struct {
	CertDir string `toml:"cert_dir" default:"certs" path:"true"`
	Roots   string `toml:"roots" path:"true"` // trusted for backends that speak TLS
}

// Proxy is [proxy]: times.
type Proxy struct {
	HelloTimeout     config.Duration `toml:"hello_timeout" default:"5s" reload:"true"`
	HandshakeTimeout config.Duration `toml:"handshake_timeout" default:"10s" reload:"true"`
	ConnectTimeout   config.Duration `toml:"connect_timeout" default:"5s"`
	ResponseTimeout  config.Duration `toml:"response_timeout" default:"60s"`
	IdleTimeout      config.Duration `toml:"idle_timeout" default:"1h" reload:"true"`
	LingerTimeout    config.Duration `toml:"linger_timeout" default:"60s" reload:"true"`
	DrainTimeout     config.Duration `toml:"drain_timeout" default:"30s"`
	ShutdownTimeout  config.Duration `toml:"shutdown_timeout" default:"15s"`
}

// Limits is [limits].
type Limits struct {
	MaxConnections int      `toml:"max_connections" reload:"true"` // 0: (file descriptors - 512) / 2
	PerSource      int      `toml:"per_source_connections" default:"256" reload:"true"`
	Exempt         []string `toml:"exempt" reload:"true"` // default: loopback
	Handshakes     int      `toml:"handshakes" default:"512" reload:"true"`
}

// Firewall is [firewall].
type Firewall struct {
	Default string `toml:"default" default:"allow" reload:"true"`
}

// AccessLog is [access_log].
type AccessLog struct {
	Enabled bool `toml:"enabled" default:"true"`
}

// Rule is one [[rule]]; the first that matches a source decides.
type Rule struct {
	Action string `toml:"action"` // allow or deny
	Value  string `toml:"value"`  // address or CIDR prefix
	Note   string `toml:"note"`
}

// Plain is an entry of a redirect listener's plain list.
type Plain struct {
	Host    string `toml:"host"`
	Prefix  string `toml:"prefix"`
	Backend string `toml:"backend"`
}

// Listener is one [[listener]].
type Listener struct {
	Name              string   `toml:"name"`
	Addrs             []string `toml:"addrs"`
	Kind              string   `toml:"kind"`
	MaxConnections    int      `toml:"max_connections"`
	ProxyProtocol     bool     `toml:"proxy_protocol"`
	TrustedSources    []string `toml:"trusted_sources"`
	ProxyKey          string   `toml:"proxy_key"`
	TrustedForwarders []string `toml:"trusted_forwarders"`
	To                string   `toml:"to"`
	HTTPSPort         int      `toml:"https_port"`
	ACMEBackend       string   `toml:"acme_backend"`
	Plain             []Plain  `toml:"plain"`
}

// Check is the check of a [[route]].
type Check struct {
	Kind     string          `toml:"kind"`
	Path     string          `toml:"path"`
	Interval config.Duration `toml:"interval"`
	Timeout  config.Duration `toml:"timeout"`
}

// RouteTimeouts are those of a [[route]].
type RouteTimeouts struct {
	Connect        config.Duration `toml:"connect"`
	Idle           config.Duration `toml:"idle"`
	ResponseHeader config.Duration `toml:"response_header"`
}

// Route is one [[route]]; its owner is config.
type Route struct {
	Listener    string          `toml:"listener"`
	Hostname    string          `toml:"hostname"`
	ALPN        string          `toml:"alpn"`
	Mode        string          `toml:"mode"`
	Proto       string          `toml:"proto"`
	TLSCert     string          `toml:"tls_cert"`
	TLSKey      string          `toml:"tls_key"`
	BackendTLS  bool            `toml:"backend_tls"`
	BackendName string          `toml:"backend_name"`
	ProxyOut    string          `toml:"proxy_out"`
	ProxyKey    string          `toml:"proxy_key"`
	Check       Check           `toml:"check"`
	Timeouts    RouteTimeouts   `toml:"timeouts"`
	HSTS        config.Duration `toml:"hsts"`
	Backends    []string        `toml:"backends"`
}

// Spec returns the definition a [[route]] states.
func (r Route) Spec() route.Spec {
	s := route.Spec{Key: route.Key{Listener: r.Listener, Hostname: r.Hostname, ALPN: r.ALPN}, Mode: route.Mode(r.Mode), Proto: route.Proto(r.Proto),
		TLSCert: r.TLSCert, TLSKey: r.TLSKey, BackendTLS: r.BackendTLS, BackendName: r.BackendName, ProxyOut: route.ProxyOut(r.ProxyOut), ProxyKey: r.ProxyKey,
		Check:    route.Check{Kind: route.CheckKind(r.Check.Kind), Path: r.Check.Path, Interval: r.Check.Interval.D(), Timeout: r.Check.Timeout.D()},
		Timeouts: route.Timeouts{Connect: r.Timeouts.Connect.D(), Idle: r.Timeouts.Idle.D(), ResponseHeader: r.Timeouts.ResponseHeader.D()},
		HSTS:     r.HSTS.D()}
	for _, b := range r.Backends {
		s.Backends = append(s.Backends, route.Backend{Addr: b, Weight: 100})
	}
	return s
}

// Specs returns the file's routes.
func (c Config) Specs() []route.Spec {
	out := make([]route.Spec, 0, len(c.Routes))
	for _, r := range c.Routes {
		s := r.Spec()
		s.Owner = route.OwnerConfig
		out = append(out, s)
	}
	return out
}

// Validate finds every fault that needs no network.
func (c Config) Validate() error {
	f := fault.New(fault.Invalid, "the configuration cannot be used")
	names := map[string]string{}
	addrs := map[string]bool{}
	for i, l := range c.Listeners {
		l.validate(f, fmt.Sprintf("listener[%d]", i), names, addrs)
	}
	for i, l := range c.Listeners {
		if l.Kind == "redirect" && names[l.To] != "tls" {
			f.WithField(fmt.Sprintf("listener[%d].to", i), "%q is no listener of kind tls", l.To)
		}
	}
	stated := map[route.Key]bool{}
	for i, s := range c.Specs() {
		where := fmt.Sprintf("route[%d]", i)
		n, err := route.Normalise(s)
		switch {
		case err != nil:
			f.WithField(where, "%v", err)
		case names[n.Listener] != "tls":
			f.WithField(where+".listener", "%q is no listener of kind tls", n.Listener)
		case stated[n.Key]:
			f.WithField(where, "%s is stated twice", n.Key)
		}
		stated[n.Key] = true
	}
	for i, r := range c.Rules {
		if _, err := r.rule(); err != nil {
			f.WithField(fmt.Sprintf("rule[%d]", i), "%v", err)
		}
	}
	if d := c.Firewall.Default; d != "allow" && d != "deny" {
		f.WithField("firewall.default", "%q is not allow or deny", d)
	}
	for _, p := range c.Limits.Exempt {
		if _, err := config.ParsePrefix(p); err != nil {
			f.WithField("limits.exempt", "%q is no address or prefix", p)
		}
	}
	for key, set := range map[string][]string{"admin.write": c.Admin.Write, "admin.read": c.Admin.Read} {
		for _, u := range set {
			if _, err := uidOf(u); err != nil {
				f.WithField(key, "%q is neither a user of this machine nor a number", u)
			}
		}
	}
	if len(f.Fields) == 0 {
		return nil
	}
	return f
}

func (l Listener) validate(f *fault.Error, where string, names map[string]string, addrs map[string]bool) {
	switch {
	case l.Name == "":
		f.WithField(where+".name", "is missing")
	case names[l.Name] != "":
		f.WithField(where+".name", "%q is used twice", l.Name)
	}
	names[l.Name] = l.Kind
	if l.Kind != "tls" && l.Kind != "redirect" {
		f.WithField(where+".kind", "%q is not tls or redirect", l.Kind)
	}
	if len(l.Addrs) == 0 {
		f.WithField(where+".addrs", "is empty")
	}
	for _, a := range l.Addrs {
		host, port, err := net.SplitHostPort(a)
		n, perr := strconv.ParseUint(port, 10, 16)
		if _, herr := netip.ParseAddr(host); err != nil || perr != nil || n == 0 || host != "" && herr != nil {
			f.WithField(where+".addrs", "%q is no address:port", a)
		}
		if addrs[a] {
			f.WithField(where+".addrs", "%q is used twice", a)
		}
		addrs[a] = true
	}
	if l.ProxyProtocol && len(l.TrustedSources) == 0 {
		f.WithField(where+".trusted_sources", "is empty: with proxy_protocol anybody could choose his address")
	}
	for key, set := range map[string][]string{"trusted_sources": l.TrustedSources, "trusted_forwarders": l.TrustedForwarders} {
		for _, p := range set {
			if _, err := config.ParsePrefix(p); err != nil {
				f.WithField(where+"."+key, "%q is no address or prefix", p)
			}
		}
	}
	for i, p := range l.Plain {
		at := fmt.Sprintf("%s.plain[%d]", where, i)
		if n, ok := hello.NormaliseName(p.Host); !ok || n != p.Host {
			f.WithField(at+".host", "%q is no host name in lower case", p.Host)
		}
		if !strings.HasPrefix(p.Prefix, "/") || !strings.HasSuffix(p.Prefix, "/") {
			f.WithField(at+".prefix", "%q does not begin and end with a slash", p.Prefix)
		}
		if _, err := route.NormaliseAddr(p.Backend); err != nil {
			f.WithField(at+".backend", "%q is no host:port", p.Backend)
		}
	}
}

func (r Rule) rule() (ingress.Rule, error) {
	p, err := config.ParsePrefix(r.Value)
	if err != nil {
		return ingress.Rule{}, fmt.Errorf("%q is no address or prefix", r.Value)
	}
	if r.Action != "allow" && r.Action != "deny" {
		return ingress.Rule{}, fmt.Errorf("action %q is not allow or deny", r.Action)
	}
	return ingress.Rule{Allow: r.Action == "allow", Prefix: p, Note: r.Note}, nil
}

func prefixes(set []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range set {
		if p, err := config.ParsePrefix(s); err == nil { // Validate has refused what is none
			out = append(out, p)
		}
	}
	return out
}

// settings returns what the data path is bounded by.
func (c Config) settings() ingress.Settings {
	s := ingress.Settings{
		Limits: ingress.Limits{MaxConnections: c.Limits.MaxConnections, PerSource: c.Limits.PerSource,
			Exempt: prefixes(c.Limits.Exempt), Handshakes: max(c.Limits.Handshakes, 1)},
		Timeouts: ingress.Timeouts{Hello: c.Proxy.HelloTimeout.D(), Handshake: c.Proxy.HandshakeTimeout.D(), Connect: c.Proxy.ConnectTimeout.D(),
			Idle: c.Proxy.IdleTimeout.D(), Linger: c.Proxy.LingerTimeout.D()},
		DefaultDeny: c.Firewall.Default == "deny",
	}
	if s.Limits.MaxConnections == 0 {
		s.Limits.MaxConnections = descriptors()
	}
	if c.Limits.Exempt == nil {
		s.Limits.Exempt = prefixes([]string{"127.0.0.0/8", "::1/128"})
	}
	for _, r := range c.Rules {
		if x, err := r.rule(); err == nil {
			s.Rules = append(s.Rules, x)
		}
	}
	return s
}

// descriptors returns how many connections the limit of open files allows, keeping 512 for ourselves.
func descriptors() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(max(64, (min(l.Cur, 1<<20)-min(l.Cur, 512))/2))
}

// listeners returns the listeners with their keys read.
func (c Config) listeners(key func(string) ([]byte, error)) ([]ingress.Listener, error) {
	byName := map[string]Listener{}
	for _, l := range c.Listeners {
		byName[l.Name] = l
	}
	out := make([]ingress.Listener, 0, len(c.Listeners))
	for _, l := range c.Listeners {
		x := ingress.Listener{Name: l.Name, Kind: ingress.Kind(l.Kind), Addrs: slices.Clone(l.Addrs), MaxConnections: l.MaxConnections,
			ProxyProtocol: l.ProxyProtocol, Trusted: prefixes(l.TrustedSources), Forwarders: prefixes(l.TrustedForwarders)}
		if l.ProxyKey != "" {
			var err error
			if x.HopKey, err = key(l.ProxyKey); err != nil {
				return nil, fault.New(fault.Invalid, "listener %s: proxy_key", l.Name).Wrap(err)
			}
		}
		if x.Kind == ingress.Redirect {
			x.Rules = l7.Rules{To: l.To, HTTPSPort: l.HTTPSPort, ACMEBackend: l.ACMEBackend}
			if x.Rules.HTTPSPort == 0 {
				x.Rules.HTTPSPort = ingress.HTTPSPort(ingress.Listener{Addrs: byName[l.To].Addrs})
			}
			for _, p := range l.Plain {
				x.Rules.Plain = append(x.Rules.Plain, l7.Plain(p))
			}
		}
		out = append(out, x)
	}
	return out, nil
}

func uidOf(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	if name == "root" { // an image has no passwd file
		return 0, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}

// uids returns the users of a list.
func uids(set []string, fallback ...uint32) []uint32 {
	if len(set) == 0 {
		return fallback
	}
	var out []uint32
	for _, s := range set {
		if u, err := uidOf(s); err == nil {
			out = append(out, u)
		}
	}
	return out
}
