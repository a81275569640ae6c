package dialin

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

func tlsState(c net.Conn) tls.ConnectionState {
	if t, ok := c.(*tls.Conn); ok {
		return t.ConnectionState()
	}
	return tls.ConnectionState{}
}

// ended turns the ordinary end of a stream into success.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Connect makes the master's end of an accepted connection whose handshake is over. gone is called once, when the
// connection has ended; calls fail then, and nothing dials again: the agent does. Closing the closer ends the connection,
// whatever gRPC made of it so far.
func Connect(conn *tls.Conn, node string, gone func()) (*grpc.ClientConn, io.Closer, error) {
	end := &masterConn{Conn: conn, gone: gone}
	given := make(chan net.Conn, 1)
	given <- end
	cc, err := grpc.NewClient("passthrough:///"+node,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case c := <-given:
				return c, nil
			default:
				return nil, errors.New("the agent's connection has ended")
			}
		}),
		grpc.WithTransportCredentials(turned{}), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0), // an idle connection is a live one
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingWait, PermitWithoutStream: true}))
	if err != nil {
		return nil, nil, errors.Join(err, end.Close())
	}
	cc.Connect()
	return cc, end, nil
}

// masterConn tells when it is closed, by whichever end.
type masterConn struct {
	*tls.Conn
	once sync.Once
	gone func()
}

// Close implements net.Conn.
func (c *masterConn) Close() error {
	// A close_notify to a peer that does not read may block; the deadline bounds it.
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	err := c.Conn.Close()
	c.once.Do(c.gone)
	return err
}
