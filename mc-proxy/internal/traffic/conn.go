// Package traffic keeps the live connections, so that they can be listed, counted and closed.
//
// A Conn is registered when it is accepted and forgotten when it ends. Its fields are set by the one goroutine
// that serves it and read by anyone; whoever kills one only calls what its server left for that.
package traffic

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// State is where a connection stands.
type State string

// The states.
const (
	ProxyHeader State = "proxy_header"
	Hello       State = "hello"
	Held        State = "held"
	Dialling    State = "dialling"
	Active      State = "active"
	HalfClosed  State = "half_closed"
)

// Conn is one client connection.
type Conn struct {
	ID       uint64
	Listener string
	Peer     netip.AddrPort // of the TCP connection
	Since    time.Time

	raw      *net.TCPConn
	table    *Table
	requests atomic.Int64

	mu      sync.Mutex
	client  netip.AddrPort
	sni     string
	route   string
	mode    string
	backend string
	state   State
	far     *net.TCPConn // backend side of an L4 relay
	idle    time.Duration
	killed  bool
}

// View is a picture of a connection.
type View struct {
	ID                        uint64
	Listener, SNI, Route      string
	Mode, Backend             string
	Client, Peer              netip.AddrPort
	State                     State
	Since                     time.Time
	BytesIn, BytesOut         int64
	Requests                  int64
	sinceClient, sinceBackend time.Duration
}

// SetClient names the client, when it is not the peer.
func (c *Conn) SetClient(a netip.AddrPort) { c.mu.Lock(); c.client = a; c.mu.Unlock() }

// Client returns the client's address.
func (c *Conn) Client() netip.AddrPort { c.mu.Lock(); defer c.mu.Unlock(); return c.client }

// SetRoute says what the hello led to.
func (c *Conn) SetRoute(sni, route, mode string) {
	c.mu.Lock()
	c.sni, c.route, c.mode = sni, route, mode
	c.mu.Unlock()
}

// SetState moves the connection on.
func (c *Conn) SetState(s State) { c.mu.Lock(); c.state = s; c.mu.Unlock() }

// SetBackend names the backend; far is its connection when this is an L4 relay, whose idle time ends after idle.
func (c *Conn) SetBackend(addr string, far *net.TCPConn, idle time.Duration) {
	c.mu.Lock()
	c.backend, c.far, c.idle = addr, far, idle
	killed := c.killed
	c.mu.Unlock()
	if killed && far != nil {
		reset(far)
	}
}

// AddRequest counts an L7 request.
func (c *Conn) AddRequest() { c.requests.Add(1) }

// Kill closes both sides with a reset. Whoever serves the connection sees its reads and writes fail.
func (c *Conn) Kill() {
	c.mu.Lock()
	c.killed = true
	far := c.far
	c.mu.Unlock()
	reset(c.raw)
	if far != nil {
		reset(far)
	}
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// View returns the present picture. Byte counts come from the kernel, so the data path keeps none.
func (c *Conn) View() View {
	c.mu.Lock()
	v := View{ID: c.ID, Listener: c.Listener, SNI: c.sni, Route: c.route, Mode: c.mode, Backend: c.backend,
		Client: c.client, Peer: c.Peer, State: c.state, Since: c.Since, Requests: c.requests.Load()}
	far := c.far
	c.mu.Unlock()
	v.BytesIn, v.BytesOut, v.sinceClient = tcpInfo(c.raw)
	if far != nil {
		_, _, v.sinceBackend = tcpInfo(far)
	} else {
		v.sinceBackend = v.sinceClient
	}
	return v
}

func tcpInfo(c *net.TCPConn) (in, out int64, quiet time.Duration) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, 0, 0
	}
	_ = rc.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			in, out = int64(info.Bytes_received), int64(info.Bytes_acked)
			quiet = time.Duration(info.Last_data_recv) * time.Millisecond
		}
	})
	return in, out, quiet
}

// Table holds the live connections. Safe for concurrent use.
type Table struct {
	next atomic.Uint64

	mu    sync.Mutex
	conns map[uint64]*Conn
}

// NewTable returns an empty table.
func NewTable() *Table { return &Table{conns: map[uint64]*Conn{}} }

// Add registers an accepted connection.
func (t *Table) Add(listener string, raw *net.TCPConn, peer netip.AddrPort, now time.Time) *Conn {
	c := &Conn{ID: t.next.Add(1), Listener: listener, Peer: peer, client: peer, Since: now, raw: raw, table: t, state: Hello}
	t.mu.Lock()
	t.conns[c.ID] = c
	t.mu.Unlock()
	return c
}

// Done forgets the connection.
func (c *Conn) Done() {
	c.table.mu.Lock()
	delete(c.table.conns, c.ID)
	c.table.mu.Unlock()
}

// All returns the live connections, oldest first.
func (t *Table) All() []*Conn {
	t.mu.Lock()
	out := make([]*Conn, 0, len(t.conns))
	for _, c := range t.conns {
		out = append(out, c)
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b *Conn) int { return int(int64(a.ID) - int64(b.ID)) })
	return out
}

// Len returns how many connections live.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}

// Sweep closes L4 relays on which no side has said anything for their idle time, or for linger once one side
// has ended.
func (t *Table) Sweep(linger time.Duration) {
	for _, c := range t.All() {
		c.mu.Lock()
		relay, limit := c.far != nil, c.idle
		if c.state == HalfClosed {
			limit = min(limit, linger)
		}
		c.mu.Unlock()
		if !relay {
			continue
		}
		if v := c.View(); min(v.sinceClient, v.sinceBackend) > limit {
			c.Kill()
		}
	}
}
