package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Kind says what sort of caller this is.
type Kind string

// The kinds of callers.
const (
	Human  Kind = "human"  // a person's account
	System Kind = "system" // a service account; it carries no role
	Socket Kind = "local"  // a process on this machine's Unix socket
)

// Transport says how a call reached us.
type Transport string

// The transports. REST calls and pages arrive in process.
const (
	OverTLS   Transport = "tcp"
	InProcess Transport = "inprocess"
	OverUnix  Transport = "unix"
)

// The roles of human accounts.
const (
	RoleAdmin = "admin"
	RoleUser  = "user"
	RoleGuest = "guest"
)

// Caller is a verified caller. Only this package makes one that is somebody: a literal built elsewhere is
// nobody, like the zero value, and passes only Public rules. The slices are shared and must not be changed.
type Caller struct {
	Subject   string // account id; "local:<uid>" on the socket
	Name      string // account name; "root" for uid 0
	Kind      Kind
	Roles     []string
	Tags      []string
	SID       string // session, or the id of the key the token was minted from
	JTI       string
	Epoch     int64
	AMR       []string
	AuthTime  time.Time // last real proof of a factor; zero for system accounts
	IssuedAt  time.Time
	Expires   time.Time // zero on the socket
	Access    []Scope   // the access claim of a registry token; nil otherwise
	Transport Transport

	scoped bool // the token carries an access claim, be it empty
	known  bool // made by this package
	admin  bool // a local administrator
	kid    string
}

// Known reports whether the caller is somebody.
func (c Caller) Known() bool { return c.known }

// LocalAdmin reports whether the caller is root, or somebody who counts as root, on the Unix socket.
func (c Caller) LocalAdmin() bool { return c.known && c.admin }

// HasRole reports whether the caller holds one of the roles. A local administrator holds every role; a system
// account holds none, whatever its token says.
func (c Caller) HasRole(roles ...string) bool {
	switch {
	case !c.known:
		return false
	case c.admin:
		return true
	case c.Kind == System:
		return false
	}
	for _, r := range roles {
		if slices.Contains(c.Roles, r) {
			return true
		}
	}
	return false
}

// HasTag reports whether the caller's account carries the tag.
func (c Caller) HasTag(tag string) bool { return c.known && slices.Contains(c.Tags, tag) }

// Scoped reports whether the token carries an access claim and so opens only rules marked Scoped.
func (c Caller) Scoped() bool { return c.scoped }

// String returns the caller as logs show it: "alice", "system:mcp", "local:root", "nobody".
func (c Caller) String() string {
	switch {
	case !c.known:
		return "nobody"
	case c.Kind == Human:
		return c.Name
	default:
		return string(c.Kind) + ":" + c.Name
	}
}

// LocalRoot returns the caller for uid 0, or for a uid that counts as root, on the Unix socket: a local
// administrator whose every call is audited. name is what audit shows.
func LocalRoot(uid uint32, name string) Caller {
	return Caller{Subject: fmt.Sprintf("local:%d", uid), Name: name, Kind: Socket, Roles: []string{RoleAdmin},
		Transport: OverUnix, known: true, admin: true}
}

// LocalPeer returns the caller for another uid that a service lets onto its socket. Without roles it may ask
// health and status and what the service's own policy gives it.
func LocalPeer(uid uint32, name string, roles ...string) Caller {
	return Caller{Subject: fmt.Sprintf("local:%d", uid), Name: name, Kind: Socket, Roles: roles,
		Transport: OverUnix, known: true, admin: slices.Contains(roles, RoleAdmin)}
}

// over returns the caller as it arrived by this transport.
func (c Caller) over(t Transport) Caller {
	if c.Kind != Socket {
		c.Transport = t
	}
	return c
}

// Origin is where a call came from, before anybody asked who it is.
type Origin struct {
	Client    netip.Addr // the client's address; the zero value on the Unix socket
	RequestID string
	Transport Transport
	Method    string // "/pkg.Service/Method" or "HTTP GET /pattern"
}
