package serve

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxUDPQuery bounds what is read of one datagram; longer ones are malformed by length.
const maxUDPQuery = 4096

// serveUDP reads one socket until it is closed. Several goroutines share a socket.
func (l *Listeners) serveUDP(c *net.UDPConn, public bool) {
	buf := make([]byte, maxUDPQuery)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of some client
		}
		f := From{Client: from.Addr().Unmap(), Public: public}
		l.cfg.Handler.Handle(l.ctx, buf[:n], f, func(out []byte) {
			_, _ = c.WriteToUDPAddrPort(out, from) // the client asks again
		})
	}
}

// serveTCP accepts connections until the listener is closed.
func (l *Listeners) serveTCP(tl *net.TCPListener, public bool) {
	for {
		c, err := tl.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-l.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond): // out of descriptors: give others time to end
			}
			continue
		}
		client := addrOf(c.RemoteAddr())
		if !l.tcp.enter(c, client) {
			_ = c.Close()
			continue
		}
		l.wg.Go(func() {
			defer l.tcp.leave(c, client)
			defer func() { _ = c.Close() }()
			l.serveConn(c, From{Client: client, Public: public, TCP: true})
		})
	}
}

// serveConn answers the messages of one connection, in order.
func (l *Listeners) serveConn(c net.Conn, f From) {
	wait := l.cfg.TCP.FirstByte
	var head [2]byte
	for {
		if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
			return
		}
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(c, msg); err != nil {
			return
		}
		ok := true
		answered := false
		l.cfg.Handler.Handle(l.ctx, msg, f, func(out []byte) {
			answered = true
			if len(out) > dns.MaxMsgSize {
				ok = false
				return
			}
			framed := make([]byte, 2+len(out))
			binary.BigEndian.PutUint16(framed, uint16(len(out))) //nolint:gosec // checked above
			copy(framed[2:], out)
			if err := c.SetWriteDeadline(time.Now().Add(l.cfg.TCP.Idle)); err != nil {
				ok = false
				return
			}
			if _, err := c.Write(framed); err != nil { // length and body in one write (RFC 7766 section 8)
				ok = false
			}
		})
		if !ok || !answered {
			return
		}
		wait = l.cfg.TCP.Idle
	}
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// connLimit counts connections, in all and by client network.
type connLimit struct {
	max, perPrefix int

	mu    sync.Mutex // guards conns and nets
	conns map[net.Conn]struct{}
	nets  map[netip.Prefix]int
}

func newConnLimit(t TCPLimits) *connLimit {
	return &connLimit{max: t.MaxConns, perPrefix: t.PerPrefix, conns: map[net.Conn]struct{}{}, nets: map[netip.Prefix]int{}}
}

func network(a netip.Addr) netip.Prefix {
	bits := 24
	if a.Is6() {
		bits = 56
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func (l *connLimit) enter(c net.Conn, a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := network(a)
	if len(l.conns) >= l.max || (!a.IsLoopback() && l.nets[n] >= l.perPrefix) {
		return false
	}
	l.conns[c] = struct{}{}
	l.nets[n]++
	return true
}

func (l *connLimit) leave(c net.Conn, a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	n := network(a)
	if l.nets[n]--; l.nets[n] <= 0 {
		delete(l.nets, n)
	}
}
