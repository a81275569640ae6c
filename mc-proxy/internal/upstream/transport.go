package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"metacircular.net/mc-proxy/internal/route"
)

const (
	idleConns   = 32
	idleTimeout = 90 * time.Second
	// A response header larger than this is refused.
	maxResponseHeader = 64 << 10
)

// transports are the HTTP connections to one backend: HTTP/1 and HTTP/2 apart, because websockets need the
// one and gRPC the other. They are shared by all clients.
type transports struct {
	b  *Backend
	h1 *http.Transport
	h2 *http.Transport // over TLS it takes HTTP/1 too when proto is auto
	// silent is h2 without a limit for the response header: gRPC may be quiet before its first message.
	silent *http.Transport

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// RoundTrip sends one request to the backend. The body is not closed on a DialError, so that another backend
// can be tried with it.
func (b *Backend) RoundTrip(req *http.Request) (*http.Response, error) {
	b.mu.Lock()
	if b.trans == nil {
		b.trans = newTransports(b, b.settings)
	}
	t, s := b.trans, b.settings
	b.mu.Unlock()
	req.URL.Host = b.Addr
	req.URL.Scheme = "http"
	if s.TLS {
		req.URL.Scheme = "https"
	}
	return t.pick(req, s).RoundTrip(req)
}

func (t *transports) pick(req *http.Request, s Settings) *http.Transport {
	if req.Header.Get("Upgrade") != "" {
		return t.h1 // an upgrade over an HTTP/2 transport would be refused
	}
	grpc := IsGRPC(req)
	switch {
	case s.Proto == route.H1:
		return t.h1
	case grpc:
		return t.silent
	case s.Proto == route.H2, s.Proto == route.H2C, s.TLS:
		return t.h2
	}
	return t.h1
}

// IsGRPC reports whether a request is a gRPC call.
func IsGRPC(req *http.Request) bool {
	ct := req.Header.Get("Content-Type")
	return ct == "application/grpc" || strings.HasPrefix(ct, "application/grpc+") || strings.HasPrefix(ct, "application/grpc;")
}

func newTransports(b *Backend, s Settings) *transports {
	t := &transports{b: b, conns: map[net.Conn]struct{}{}}
	var p1, p2 http.Protocols
	p1.SetHTTP1(true)
	if s.TLS {
		p2.SetHTTP2(true)
		if s.Proto == route.Auto {
			p2.SetHTTP1(true)
		}
	} else {
		p2.SetUnencryptedHTTP2(true)
	}
	t.h1 = t.make(s, &p1, s.ResponseHeader)
	t.h2 = t.make(s, &p2, s.ResponseHeader)
	t.silent = t.make(s, &p2, 0)
	return t
}

func (t *transports) make(s Settings, p *http.Protocols, responseHeader time.Duration) *http.Transport {
	var protos []string
	if p.HTTP2() {
		protos = append(protos, "h2")
	}
	if p.HTTP1() {
		protos = append(protos, "http/1.1")
	}
	return &http.Transport{
		Protocols: p,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return t.dial(ctx, s)
		},
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			raw, err := t.dial(ctx, s)
			if err != nil {
				return nil, err
			}
			// The roots are taken anew for each dial, because they reload.
			c := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: t.b.env.Roots(), ServerName: s.ServerName, NextProtos: protos})
			hctx, cancel := context.WithTimeout(ctx, s.Connect)
			defer cancel()
			if err := c.HandshakeContext(hctx); err != nil {
				raw.Close()
				err = &DialError{t.b.Addr, err}
				if ctx.Err() == nil {
					t.b.dialled(err)
				}
				return nil, err
			}
			return c, nil
		},
		// Else the Transport would ask for gzip and unpack it, and the client would get other bytes.
		DisableCompression:     true,
		MaxIdleConnsPerHost:    idleConns,
		IdleConnTimeout:        idleTimeout,
		ResponseHeaderTimeout:  responseHeader,
		MaxResponseHeaderBytes: maxResponseHeader,
		ExpectContinueTimeout:  time.Second,
		ReadBufferSize:         16 << 10,
		WriteBufferSize:        16 << 10,
	}
}

// conn is a pooled connection that its transports know of until it is closed.
type conn struct {
	*net.TCPConn
	t    *transports
	once sync.Once
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.t.mu.Lock()
		delete(c.t.conns, c)
		c.t.mu.Unlock()
	})
	return c.TCPConn.Close()
}

func (t *transports) dial(ctx context.Context, s Settings) (net.Conn, error) {
	raw, err := t.b.Dial(ctx, s.Connect)
	if err != nil {
		return nil, err
	}
	c := &conn{TCPConn: raw, t: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		raw.Close()
		return nil, &DialError{t.b.Addr, net.ErrClosed}
	}
	t.conns[c] = struct{}{}
	return c, nil
}

// retire closes what is idle and lets the rest go when it becomes so.
func (t *transports) retire() {
	if t == nil {
		return
	}
	for _, tr := range []*http.Transport{t.h1, t.h2, t.silent} {
		tr.CloseIdleConnections()
	}
}

// close ends all connections. Nothing is in flight any more, so what the transports do not call idle yet is
// only finishing its last frame.
func (t *transports) close() {
	if t == nil {
		return
	}
	t.retire()
	t.mu.Lock()
	t.closed = true
	rest := make([]net.Conn, 0, len(t.conns))
	for c := range t.conns {
		rest = append(rest, c)
	}
	t.mu.Unlock()
	for _, c := range rest {
		c.Close()
	}
}
