package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"metacircular.net/mc-proxy/internal/hello"
	"metacircular.net/mc-proxy/internal/l7"
	"metacircular.net/mc-proxy/internal/proxyhdr"
	"metacircular.net/mc-proxy/internal/route"
	"metacircular.net/mc-proxy/internal/table"
	"metacircular.net/mc-proxy/internal/traffic"
)

const (
	// peekBudget bounds what all peek buffers hold beyond their first 4 KiB.
	peekBudget = 32 << 20
	peekFree   = 4 << 10
	maxHTTP    = 8 << 10
)

// alertUnrecognizedName is the fatal alert of RFC 6066 section 3: a person's browser shows something true.
var alertUnrecognizedName = []byte{21, 3, 3, 0, 2, 2, 112}

// inbound is one accepted connection until it is handed on.
type inbound struct {
	s     *Server
	l     *listener
	spec  *Listener
	set   *Settings
	raw   *net.TCPConn
	rec   *traffic.Conn
	start time.Time

	client  netip.AddrPort
	server  netip.AddrPort // the address the client reached
	counted bool           // at its source
	peeked  int64          // of the budget
	once    sync.Once
	rd      *hello.Reader
}

// dropReader gives the hello's buffers back; nothing may refer to them any more.
func (in *inbound) dropReader() {
	if in.rd != nil {
		in.s.readers.Put(in.rd)
		in.rd = nil
	}
	in.s.peeked.Add(-in.peeked)
	in.peeked = 0
}

// finish gives back what the connection counted for.
func (in *inbound) finish() {
	in.once.Do(func() {
		if in.counted {
			in.s.sources.leave(in.client.Addr())
		}
		in.rec.Done()
		in.l.active.Add(-1)
		in.s.active.Add(-1)
	})
}

// reject resets the connection and counts why.
func (in *inbound) reject(why table.Reason) {
	in.s.cfg.Metrics.Rejected(in.spec.Name, string(why))
	reset(in.raw)
	in.finish()
}

// serve takes the connection through the decision.
func (in *inbound) serve() {
	in.client, in.server = addrPortOf(in.raw.RemoteAddr()), addrPortOf(in.raw.LocalAddr())
	_ = in.raw.SetReadDeadline(in.start.Add(in.set.Timeouts.Hello))
	rd, _ := in.s.readers.Get().(*hello.Reader)
	rd.Reset()
	in.rd = rd
	defer in.dropReader()

	var pre []byte
	if in.spec.ProxyProtocol {
		var why table.Reason
		if pre, why = in.proxyHeader(); why != table.Pass {
			in.reject(why)
			return
		}
	}
	if why := in.admit(); why != table.Pass {
		in.reject(why)
		return
	}
	if in.spec.Kind == Redirect {
		_ = in.raw.SetReadDeadline(time.Time{})
		c := in.wrap(bytes.Clone(pre))
		if !in.l.redirect.Give(c) {
			c.Close()
		}
		return
	}
	in.rec.SetState(traffic.Hello)
	if err := in.hello(rd, pre); err != nil {
		in.notHello(rd, err)
		return
	}
	in.route(rd)
}

// proxyHeader reads the header in front and returns what came after it.
func (in *inbound) proxyHeader() (rest []byte, why table.Reason) {
	in.rec.SetState(traffic.ProxyHeader)
	if !in.spec.Trusts(in.client.Addr()) {
		return nil, table.UntrustedProxy
	}
	buf := make([]byte, 0, 512)
	for {
		n, err := proxyhdr.Length(buf)
		if err != nil {
			return nil, table.BadProxy
		}
		if n > 0 && len(buf) >= n {
			src, err := proxyhdr.Parse(buf[:n], in.spec.HopKey)
			if err != nil {
				in.s.cfg.Log.Debug("PROXY header refused", "peer", in.client, "err", err)
				return nil, table.BadProxy
			}
			if src.Client.IsValid() {
				in.client = src.Client
				in.rec.SetClient(src.Client)
				if src.Server.IsValid() {
					in.server = src.Server
				}
			}
			return buf[n:], table.Pass
		}
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, 2*cap(buf)), buf...)
		}
		m, err := in.raw.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+m]
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, table.Timeout
			}
			return nil, table.BadProxy
		}
	}
}

// admit judges the source: rules first, so that what is denied uses no quota.
func (in *inbound) admit() table.Reason {
	ok, rule := in.set.Admit(in.client.Addr())
	if !ok {
		if rule >= 0 && in.set.Rules[rule].Prefix.IsSingleIP() {
			return table.DenyIP
		}
		return table.DenyCIDR
	}
	limit := in.set.Limits.PerSource
	if in.set.Exempt(in.client.Addr()) || rule >= 0 {
		limit = 0 // an allow rule that matched lifts the limit
	}
	if !in.s.sources.enter(in.client.Addr(), limit) {
		return table.PerSource
	}
	in.counted = true
	return table.Pass
}

var errBudget = errors.New("peek buffers are full")

// hello reads until the ClientHello is whole.
func (in *inbound) hello(rd *hello.Reader, pre []byte) error {
	if len(pre) > 0 {
		if done, err := rd.Feed(pre); done || err != nil {
			return err
		}
	}
	var buf [4096]byte
	for {
		n, err := in.raw.Read(buf[:])
		if n > 0 {
			if over := int64(len(rd.Raw()) + n - peekFree); over > in.peeked {
				if in.s.peeked.Add(over-in.peeked) > peekBudget {
					in.peeked = over
					return errBudget
				}
				in.peeked = over
			}
			if done, err := rd.Feed(buf[:n]); done || err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// notHello ends a connection whose beginning is no ClientHello.
func (in *inbound) notHello(rd *hello.Reader, err error) {
	switch {
	case errors.Is(err, io.EOF) && len(rd.Raw()) == 0:
		// A check of a load balancer, or ours from a neighbour: it connects and leaves.
		in.raw.Close()
		in.finish()
	case errors.Is(err, hello.ErrNotTLS) && (hello.LooksLikeHTTP(rd.Raw())):
		in.plainHTTP(rd.Raw())
	case errors.Is(err, hello.ErrNotTLS):
		in.reject(table.NotTLS)
	case errors.Is(err, os.ErrDeadlineExceeded):
		in.reject(table.Timeout)
	case errors.Is(err, hello.ErrMalformed), errors.Is(err, hello.ErrTooLarge):
		in.s.cfg.Log.Debug("ClientHello refused", "client", in.client, "err", err)
		in.reject(table.BadHello)
	default:
		in.reject(table.BadHello)
	}
}

// plainHTTP answers HTTP spoken to a TLS port as the redirect listener would.
func (in *inbound) plainHTTP(pre []byte) {
	defer in.finish()
	in.s.cfg.Metrics.Rejected(in.spec.Name, string(table.NotTLS))
	req, err := http.ReadRequest(bufio.NewReader(io.LimitReader(io.MultiReader(bytes.NewReader(bytes.Clone(pre)), in.raw), maxHTTP)))
	if err != nil {
		reset(in.raw)
		return
	}
	code, location := l7.RedirectTo(in.s.cfg.Snapshot(), in.spec.Name, int(in.server.Port()), req.Host, req.URL)
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: 0\r\n", code, http.StatusText(code))
	if location != "" {
		head += "Location: " + location + "\r\n"
	}
	_ = in.raw.SetWriteDeadline(in.start.Add(in.set.Timeouts.Hello))
	_, _ = in.raw.Write([]byte(head + "\r\n"))
	in.raw.Close()
}

// route finds the route and hands the connection on.
func (in *inbound) route(rd *hello.Reader) {
	snap := in.s.cfg.Snapshot()
	offer := route.Offer{Name: string(rd.Name())}
	if snap.Index.HasALPN(in.spec.Name) {
		offer.ALPN = rd.ALPN()
	}
	r, why := snap.Match(in.spec.Name, offer)
	if r == nil {
		in.s.cfg.Metrics.Rejected(in.spec.Name, string(why))
		_ = in.raw.SetWriteDeadline(in.start.Add(in.set.Timeouts.Hello))
		_, _ = in.raw.Write(alertUnrecognizedName)
		in.raw.Close()
		in.finish()
		return
	}
	_ = in.raw.SetReadDeadline(time.Time{})
	in.rec.SetRoute(offer.Name, r.Spec.Key.String(), string(r.Spec.Mode))
	in.s.cfg.Metrics.Connection(in.spec.Name, string(r.Spec.Mode))
	if r.Spec.Mode == route.L4 {
		if in.spec.ProxyProtocol || r.Spec.ProxyOut == route.ProxyV2 {
			offer.ALPN = rd.ALPN()
		}
		in.relay(r, offer, rd.Raw())
		return
	}
	in.terminate(r, offer, snap.TLS[r.ID], bytes.Clone(rd.Raw()))
}

func (in *inbound) wrap(pre []byte) *l7.Conn {
	c := l7.NewConn(in.raw, pre, in.rec, in.finish)
	c.Client = in.client
	return c
}

// terminate ends TLS and gives the connection to the HTTP front.
func (in *inbound) terminate(r *route.Route, offer route.Offer, cfg *tls.Config, pre []byte) {
	c := in.wrap(pre)
	c.RouteID, c.ALPN = r.ID, offer.ALPN
	if cfg == nil {
		c.Close()
		return
	}
	ctx, cancel := context.WithTimeout(in.s.stopping, in.set.Timeouts.Handshake)
	defer cancel()
	if !in.s.handshakes.take(ctx) {
		reset(in.raw)
		c.Close()
		return
	}
	t := tls.Server(c, cfg)
	err := t.HandshakeContext(ctx)
	in.s.handshakes.give()
	if err != nil {
		in.s.cfg.Log.Debug("handshake failed", "client", in.client, "sni", offer.Name, "err", err)
		in.s.cfg.Access.Add(ctx, "handshake", slog.String("route", r.Spec.Key.String()), slog.String("client", in.client.String()), slog.String("err", err.Error()))
		c.Close()
		return
	}
	in.rec.SetState(traffic.Active)
	if !in.l.front.Give(t) {
		c.Close()
	}
}
