package l7

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"

	"metacircular.net/mc-proxy/internal/traffic"
)

// Conn is an accepted client connection with the bytes read so far put back in front.
type Conn struct {
	*net.TCPConn
	Rec     *traffic.Conn
	RouteID int64    // of the hello; 0 on a redirect listener
	ALPN    []string // offered, when routes of the listener look at it
	Client  netip.AddrPort

	pre    []byte
	once   sync.Once
	closed func()
}

// NewConn wraps raw; pre is what was read of it already. closed is called once, when it is closed.
func NewConn(raw *net.TCPConn, pre []byte, rec *traffic.Conn, closed func()) *Conn {
	return &Conn{TCPConn: raw, Rec: rec, pre: pre, closed: closed}
}

// Read returns the bytes put back first.
func (c *Conn) Read(p []byte) (int, error) {
	if len(c.pre) > 0 {
		n := copy(p, c.pre)
		if c.pre = c.pre[n:]; len(c.pre) == 0 {
			c.pre = nil
		}
		return n, nil
	}
	return c.TCPConn.Read(p)
}

// RemoteAddr returns the client's address, which is the peer's unless a PROXY header named another.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.Client) }

// Close closes the connection.
func (c *Conn) Close() error {
	c.once.Do(c.closed)
	return c.TCPConn.Close()
}

type connKey struct{}

// WithConn is the ConnContext of a server that is fed with these connections, bare or under TLS.
func WithConn(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if own, ok := c.(*Conn); ok {
		return context.WithValue(ctx, connKey{}, own)
	}
	return ctx
}

// ConnOf returns the connection a request came on.
func ConnOf(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// Feed is a net.Listener that hands out connections it is given. http.Server must get the *tls.Conn itself: inside
// any wrapper HTTP/2 is silently not recognised.
type Feed struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

// NewFeed returns a Feed.
func NewFeed(addr net.Addr) *Feed {
	return &Feed{conns: make(chan net.Conn), done: make(chan struct{}), addr: addr}
}

// Give hands c to the server; false when it no longer takes any.
func (f *Feed) Give(c net.Conn) bool {
	select {
	case f.conns <- c:
		return true
	case <-f.done:
		return false
	}
}

// Accept waits for a connection.
func (f *Feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and Give.
func (f *Feed) Close() error {
	f.once.Do(func() { close(f.done) })
	return nil
}

// Addr returns the address it was made with.
func (f *Feed) Addr() net.Addr { return f.addr }
