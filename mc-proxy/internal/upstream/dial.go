package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// maxDials bounds the dials in flight to one route's backends, so that a release of many waiters does not
// become a flood.
const maxDials = 256

// ErrOwnListener refuses a backend that is one of the proxy's own listening addresses.
var ErrOwnListener = errors.New("the backend is one of the proxy's own listeners")

// DialError is a failure before a byte reached the backend: another backend may be tried.
type DialError struct {
	Addr string
	Err  error
}

// Error names the backend and the cause.
func (e *DialError) Error() string {
	var op *net.OpError
	if errors.As(e.Err, &op) {
		return fmt.Sprintf("dial %s: %v", e.Addr, op.Err)
	}
	return fmt.Sprintf("dial %s: %v", e.Addr, e.Err)
}

// Unwrap returns the cause.
func (e *DialError) Unwrap() error { return e.Err }

// Dialer opens TCP connections to backends, never to the proxy itself.
type Dialer struct {
	own   atomic.Pointer[func(netip.AddrPort) bool]
	slots chan struct{}
}

// NewDialer returns a Dialer that refuses nothing until Guard is called.
func NewDialer() *Dialer { return &Dialer{slots: make(chan struct{}, maxDials)} }

// Guard sets the test for the proxy's own addresses.
func (d *Dialer) Guard(own func(netip.AddrPort) bool) { d.own.Store(&own) }

// Own reports whether an address is one of the proxy's own.
func (d *Dialer) Own(ap netip.AddrPort) bool {
	own := d.own.Load()
	return own != nil && (*own)(netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
}

// Dial connects to addr within timeout. The result is a bare connection, which splice needs.
func (d *Dialer) Dial(ctx context.Context, addr string, timeout time.Duration) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return nil, &DialError{addr, ctx.Err()}
	}
	nd := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4},
		// Control sees the address after resolution, so a name cannot smuggle in one of ours.
		Control: func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err == nil && d.Own(ap) {
				return ErrOwnListener
			}
			return nil
		},
	}
	c, err := nd.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &DialError{addr, err}
	}
	tc, ok := c.(*net.TCPConn)
	if !ok {
		c.Close()
		return nil, &DialError{addr, errors.New("not a TCP connection")}
	}
	return tc, nil
}

// Dial connects to the backend and records the outcome for passive ejection. A caller that went away is no
// failure of the backend.
func (b *Backend) Dial(ctx context.Context, timeout time.Duration) (*net.TCPConn, error) {
	c, err := b.env.Dial.Dial(ctx, b.Addr, timeout)
	if err == nil || ctx.Err() == nil {
		b.dialled(err)
	}
	return c, err
}
