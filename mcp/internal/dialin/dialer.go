package dialin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"metacircular.net/mcdsl/cli/hostmap"
	"metacircular.net/mcdsl/gateway"
	"metacircular.net/mcdsl/log"
	"metacircular.net/mcdsl/tlsutil"
	mcpv1 "metacircular.net/mcp/api/mcp/v1"
)

// Config says where the master is and what it may see.
type Config struct {
	Addr  string // host:port of the master's agents' door; the host is the name its certificate must bear
	Hosts *hostmap.Map
	Roots *tlsutil.Roots
	Cert  *tlsutil.Certificate // the node's, for client authentication
	Local mcpv1.NodeLocalServer
	Log   *slog.Logger
}

// The pace of reconnecting, and of finding a dead connection.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 5 * time.Second
	handshake    = 10 * time.Second
	pingEvery    = 10 * time.Second
	pingWait     = 5 * time.Second
	goodFor      = 30 * time.Second // a connection that lasted so long was good
)

// Dialer keeps one connection to the master. Safe for concurrent use.
type Dialer struct {
	cfg       Config
	own       atomic.Pointer[grpc.ClientConn]
	connected atomic.Bool
}

// New returns a dialer; Run dials.
func New(cfg Config) (*Dialer, error) {
	if cfg.Roots == nil || cfg.Cert == nil || cfg.Local == nil {
		return nil, errors.New("dialin: roots, certificate and NodeLocal are needed")
	}
	if _, _, err := net.SplitHostPort(cfg.Addr); err != nil {
		return nil, fmt.Errorf("dialin: master address %q: want host:port", cfg.Addr)
	}
	cfg.Log = log.Or(cfg.Log)
	return &Dialer{cfg: cfg}, nil
}

// Register takes the agent's in-process connection, to which calls are passed on. It has the form of a REST
// registration, because that is where a server hands its connection out.
func (d *Dialer) Register(_ context.Context, _ *gateway.Mux, conn *grpc.ClientConn) error {
	d.own.Store(conn)
	return nil
}

// Connected reports whether the master can reach this agent now.
func (d *Dialer) Connected() bool { return d.connected.Load() }

// Run keeps the connection until ctx ends. It is made for run.Background. An absent master is no failure: the node
// works on alone.
func (d *Dialer) Run(ctx context.Context) error {
	pause, lastErr := firstPause, ""
	for ctx.Err() == nil {
		began := time.Now()
		err := d.once(ctx)
		d.connected.Store(false)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > goodFor {
			pause = firstPause
		}
		if err != nil && err.Error() != lastErr { // the same failure every five seconds needs one line
			lastErr = err.Error()
			d.cfg.Log.Warn("no connection to the master; the node goes on alone", "addr", d.cfg.Addr, log.Err(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, longestPause)
	}
	return nil
}

// once dials and serves until the connection ends.
func (d *Dialer) once(ctx context.Context) error {
	conn, err := d.dial(ctx)
	if err != nil {
		return err
	}
	ln := newOneConn(conn)
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	c := newCodec()
	srv := grpc.NewServer(grpc.Creds(turned{}), grpc.ForceServerCodecV2(c), grpc.UnknownServiceHandler(d.passOn(c)),
		grpc.MaxConcurrentStreams(256), grpc.MaxHeaderListSize(64<<10),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingWait}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	mcpv1.RegisterNodeLocalServer(srv, d.cfg.Local)
	d.connected.Store(true)
	d.cfg.Log.Info("connected to the master", "addr", d.cfg.Addr)
	err = srv.Serve(ln)
	srv.Stop()
	if errors.Is(err, net.ErrClosed) {
		return errors.New("the connection ended")
	}
	return err
}

func (d *Dialer) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	if st := d.cfg.Cert.Status(); !st.Loaded {
		return nil, fmt.Errorf("the node's certificate %s cannot be used: %s", st.File, st.Problem)
	}
	host, _, _ := net.SplitHostPort(d.cfg.Addr)
	raw, err := d.cfg.Hosts.DialContext(ctx, "tcp", d.cfg.Addr)
	if err != nil {
		return nil, err
	}
	conf := d.cfg.Roots.ClientConfig(host, ALPN)
	conf.GetClientCertificate = d.cfg.Cert.GetClientCertificate
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", host, err)
	}
	return conn, nil
}

// passed are the services the master may reach for its caller. Platform is not among them: it is the socket's alone.
var passed = regexp.MustCompile(`^/mcp\.v1\.(Services|Ops|Runtime|Events|Insight)/[A-Za-z]+$`)

var requestID = regexp.MustCompile(`^[0-9A-Za-z-]{8,64}$`)

// passOn hands one call to the agent's own server. No method of the contract streams from the caller, so one message
// goes in.
func (d *Dialer) passOn(c codec) grpc.StreamHandler {
	return func(_ any, in grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(in)
		own := d.own.Load()
		if own == nil || !passed.MatchString(method) {
			return status.Errorf(codes.Unimplemented, "the agent does not offer %s to the master", strings.TrimPrefix(method, "/"))
		}
		var req frame
		if err := in.RecvMsg(&req); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), keep(in.Context())))
		defer cancel()
		out, err := own.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodecV2(c))
		if err != nil {
			return err
		}
		if err := out.SendMsg(&req); err != nil {
			return out.RecvMsg(&frame{}) // which has the reason
		}
		if err := out.CloseSend(); err != nil {
			return err
		}
		for {
			var resp frame
			if err := out.RecvMsg(&resp); err != nil {
				return ended(err)
			}
			if err := in.SendMsg(&resp); err != nil {
				return err
			}
		}
	}
}

// keep takes over the metadata a call may bring: its token, and its request id.
func keep(ctx context.Context) metadata.MD {
	in, _ := metadata.FromIncomingContext(ctx)
	out := metadata.MD{}
	if v := in.Get("authorization"); len(v) > 0 {
		out["authorization"] = v
	}
	if v := in.Get(requestIDKey); len(v) == 1 && requestID.MatchString(v[0]) {
		out.Set(requestIDKey, v[0])
	}
	return out
}

// requestIDKey carries the request id, so that one id finds a call in both logs.
const requestIDKey = "mc-req-id"

// oneConn is a listener that has one connection to give, and ends when that does.
type oneConn struct {
	conn  net.Conn
	given chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: c, given: make(chan net.Conn, 1), done: make(chan struct{})}
	l.given <- &watched{c, l}
	return l
}

// Accept implements net.Listener.
func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.given:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: it ends the connection too.
func (l *oneConn) Close() error {
	l.once.Do(func() {
		close(l.done)
		_ = l.conn.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// watched ends its listener when it is closed.
type watched struct {
	net.Conn
	ln *oneConn
}

// ConnectionState lets the credentials see the TLS connection.
func (w *watched) ConnectionState() tls.ConnectionState { return tlsState(w.Conn) }

// Close implements net.Conn.
func (w *watched) Close() error { return w.ln.Close() }
