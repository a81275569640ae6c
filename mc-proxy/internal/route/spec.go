package route

import (
	"slices"
	"strings"
	"time"
)

// Mode says who ends TLS.
type Mode string

// The modes.
const (
	L4 Mode = "l4" // the untouched stream is passed on
	L7 Mode = "l7" // TLS ends here, HTTP is proxied
)

// Proto is what an L7 route speaks to its backends.
type Proto string

// The backend protocols.
const (
	Auto Proto = "auto" // TLS by ALPN, cleartext HTTP/1, gRPC over h2c, websocket over HTTP/1
	H1   Proto = "h1"
	H2   Proto = "h2"  // HTTP/2 over TLS
	H2C  Proto = "h2c" // HTTP/2 in the clear with prior knowledge
)

// ProxyOut is the PROXY header an L4 route sends ahead of the stream.
type ProxyOut string

// The PROXY versions.
const (
	ProxyNone ProxyOut = "none"
	ProxyV1   ProxyOut = "v1"
	ProxyV2   ProxyOut = "v2"
)

// CheckKind is how a backend is probed.
type CheckKind string

// The probes.
const (
	CheckTCP  CheckKind = "tcp"
	CheckTLS  CheckKind = "tls"
	CheckHTTP CheckKind = "http"
	CheckGRPC CheckKind = "grpc"
	CheckNone CheckKind = "none"
)

// Special host names.
const (
	Default = "@default" // any name that no other route of the listener matches
	NoSNI   = "@nosni"   // clients that send no name
)

// Owners with a meaning of their own.
const (
	OwnerConfig   = "config"   // the configuration file; the API refuses to touch its routes
	OwnerMCP      = "mcp"      // the agent
	OwnerOperator = "operator" // a person
)

// Key identifies a route for people and for upserts.
type Key struct {
	Listener string
	Hostname string
	ALPN     string
}

// String returns listener/hostname, with the ALPN protocol appended in brackets if there is one.
// It is the route's name in logs and metrics.
func (k Key) String() string {
	if k.ALPN == "" {
		return k.Listener + "/" + k.Hostname
	}
	return k.Listener + "/" + k.Hostname + "[" + k.ALPN + "]"
}

func compareKeys(a, b Key) int {
	if c := strings.Compare(a.Listener, b.Listener); c != 0 {
		return c
	}
	if c := strings.Compare(a.Hostname, b.Hostname); c != 0 {
		return c
	}
	return strings.Compare(a.ALPN, b.ALPN)
}

// Check is the health check of a route's backends.
type Check struct {
	Kind     CheckKind     `json:"kind"`
	Path     string        `json:"path,omitempty"`
	Interval time.Duration `json:"interval"`
	Timeout  time.Duration `json:"timeout"`
}

// Timeouts override those of the process; 0 means the default.
type Timeouts struct {
	Connect        time.Duration `json:"connect,omitempty"`
	Idle           time.Duration `json:"idle,omitempty"`
	ResponseHeader time.Duration `json:"response_header,omitempty"`
}

// Backend is one place a route sends work to.
type Backend struct {
	Addr   string // host:port
	Weight int    // 0-100; 0 takes no work unless all others are down
}

// Spec is the complete definition of a route.
type Spec struct {
	Key
	Mode        Mode
	Proto       Proto
	TLSCert     string // inside cert_dir
	TLSKey      string // empty: TLSCert holds both
	BackendTLS  bool
	BackendName string // name verified with BackendTLS; empty: the hostname
	ProxyOut    ProxyOut
	ProxyKey    string // file with the hop key
	Check       Check
	Timeouts    Timeouts
	HSTS        time.Duration
	Owner       string
	LeaseTTL    time.Duration
	Backends    []Backend
}

// Equal reports whether two definitions state the same.
func (s Spec) Equal(o Spec) bool {
	if !slices.Equal(s.Backends, o.Backends) {
		return false
	}
	s.Backends, o.Backends = nil, nil
	return equalScalars(s, o)
}

func equalScalars(s, o Spec) bool {
	return s.Key == o.Key && s.Mode == o.Mode && s.Proto == o.Proto && s.TLSCert == o.TLSCert && s.TLSKey == o.TLSKey &&
		s.BackendTLS == o.BackendTLS && s.BackendName == o.BackendName && s.ProxyOut == o.ProxyOut && s.ProxyKey == o.ProxyKey &&
		s.Check == o.Check && s.Timeouts == o.Timeouts && s.HSTS == o.HSTS && s.Owner == o.Owner && s.LeaseTTL == o.LeaseTTL
}

// Draining is a backend that takes no new work and keeps what it has.
type Draining struct {
	Addr  string
	Until time.Time // zero: until DrainBackend is called
}

// Hold makes new work on a route wait.
type Hold struct {
	Op        string // idempotency key of the call that made it
	By        string
	Until     time.Time
	MaxWait   time.Duration
	MaxQueued int
}

// Route is a definition in the table. It is immutable once it is in an Index.
type Route struct {
	ID        int64
	Spec      Spec
	Revision  int64  // generation that last changed definition, active backends or hold
	LastOp    string // idempotency key of the last swap
	CreatedBy string
	Draining  []Draining
	Hold      *Hold
}

// Clone returns a copy that may be changed.
func (r *Route) Clone() *Route {
	c := *r
	c.Spec.Backends = slices.Clone(r.Spec.Backends)
	c.Draining = slices.Clone(r.Draining)
	if r.Hold != nil {
		h := *r.Hold
		c.Hold = &h
	}
	return &c
}

// HasBackend reports whether addr is an active backend.
func (r *Route) HasBackend(addr string) bool {
	return slices.ContainsFunc(r.Spec.Backends, func(b Backend) bool { return b.Addr == addr })
}

// SetBackends makes set the active backends: what leaves drains until the given time, what is in set
// drains no longer.
func (r *Route) SetBackends(set []Backend, until time.Time) {
	for _, old := range r.Spec.Backends {
		if !slices.ContainsFunc(set, func(b Backend) bool { return b.Addr == old.Addr }) {
			r.Drain(old.Addr, until)
		}
	}
	r.Draining = slices.DeleteFunc(r.Draining, func(d Draining) bool {
		return slices.ContainsFunc(set, func(b Backend) bool { return b.Addr == d.Addr })
	})
	r.Spec.Backends = slices.Clone(set)
}

// Drain marks addr as draining, with a new deadline if it already was.
func (r *Route) Drain(addr string, until time.Time) {
	r.Draining = slices.DeleteFunc(r.Draining, func(d Draining) bool { return d.Addr == addr })
	r.Draining = append(r.Draining, Draining{Addr: addr, Until: until})
}
