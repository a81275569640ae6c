package httpserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/pires/go-proxyproto"

	"metacircular.net/mcdsl/log"
)

// HopKeyTLV is the type of the TLV in which core's PROXY v2 headers carry the hop key.
const HopKeyTLV = proxyproto.PP2Type(0xE4)

// HopKeySize is the length of a hop key in bytes.
const HopKeySize = 32

// proxyTime is how long a trusted peer may take to send its header.
const proxyTime = 2 * time.Second

// Proxy says whose PROXY headers count. The zero value trusts nobody: a header closes the connection.
type Proxy struct {
	Trusted []netip.Prefix // peers whose header is believed; from all others a header closes the connection
	Key     []byte         // hop key, 32 bytes; set = only a v2 header that carries it is believed
}

func (p Proxy) validate() error {
	if len(p.Key) != 0 && len(p.Key) != HopKeySize {
		return fmt.Errorf("hop key has %d bytes, want %d", len(p.Key), HopKeySize)
	}
	return nil
}

func (p Proxy) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(p.Trusted, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// Listen opens a TCP listener whose connections know the client behind a trusted proxy.
func Listen(ctx context.Context, addr string, p Proxy, logger *slog.Logger) (net.Listener, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return WithProxy(ln, p, logger), nil
}

// WithProxy puts PROXY headers on a listener.
func WithProxy(ln net.Listener, p Proxy, logger *slog.Logger) net.Listener {
	return &proxyListener{Listener: ln, conf: p, log: log.Or(logger)}
}

type proxyListener struct {
	net.Listener
	conf Proxy
	log  *slog.Logger
}

// Accept returns the next connection. The header is read when somebody first asks the connection for data or
// for its peer, which servers do in a goroutine of the connection.
func (l *proxyListener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	peer := AddrOf(raw.RemoteAddr())
	trusted := l.conf.trusts(peer)
	policy := proxyproto.REJECT // a header from a stranger is an error; none is fine
	if trusted {
		policy = proxyproto.USE
	}
	c := &proxyConn{Conn: proxyproto.NewConn(raw, proxyproto.WithPolicy(policy), proxyproto.SetReadHeaderTimeout(proxyTime),
		proxyproto.ValidateHeader(l.validate)), trusted: trusted, log: l.log, peer: peer}
	return c, nil
}

var errHopKey = errors.New("PROXY header without the hop key")

func (l *proxyListener) validate(h *proxyproto.Header) error {
	if len(l.conf.Key) == 0 {
		return nil
	}
	if h.Version != 2 {
		return errHopKey
	}
	tlvs, err := h.TLVs()
	if err != nil {
		return fmt.Errorf("PROXY header: %w", err)
	}
	found, ok := 0, 0
	for _, t := range tlvs {
		if t.Type == HopKeyTLV {
			found++
			ok += subtle.ConstantTimeCompare(t.Value, l.conf.Key)
		}
	}
	if found != 1 || ok != 1 {
		return errHopKey
	}
	return nil
}

// proxyConn closes itself when its header is refused: an error must not be answered with data.
type proxyConn struct {
	*proxyproto.Conn
	trusted bool
	peer    netip.Addr
	log     *slog.Logger
	begun   bool // used by the one reader only
}

// Read reads data after the header.
func (c *proxyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil || c.begun {
		c.begun = true
		return n, err
	}
	c.begun = true
	if nerr := net.Error(nil); !errors.Is(err, io.EOF) && !errors.As(err, &nerr) {
		c.log.Warn("connection closed for its PROXY header", "client", c.peer.String(), log.Err(err))
		_ = c.Conn.Close()
	}
	return n, err
}

// viaProxy reports whether a connection came through a trusted proxy.
func viaProxy(c net.Conn) bool {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		c = t.NetConn()
	}
	p, ok := c.(*proxyConn)
	return ok && p.trusted && p.ProxyHeader() != nil
}

// AddrOf returns the IP of a network address, IPv4 in its own form; the zero value if it has none.
func AddrOf(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
