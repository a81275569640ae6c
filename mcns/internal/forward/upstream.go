package forward

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcdsl/clock"

	"metacircular.net/mcns/internal/settings"
)

const (
	askTimeout = 1500 * time.Millisecond // for one query to one upstream
	deadHold   = 3 * time.Second         // a failed upstream goes to the end of the line for this long
	udpAsk     = 1232
)

// upstream is one server with what we know of its health. Safe for concurrent use.
type upstream struct {
	settings.Upstream
	domain string

	mu                sync.Mutex // guards the rest
	average           time.Duration
	queries, failures uint64
	failedAt          time.Time
}

func upstreams(domain string, list []string) ([]*upstream, error) {
	var out []*upstream
	for _, s := range list {
		u, err := settings.ParseUpstream(s)
		if err != nil {
			return nil, err
		}
		out = append(out, &upstream{Upstream: u, domain: domain})
	}
	return out, nil
}

// ranked puts those that failed lately last and otherwise keeps the configured order.
func ranked(ups []*upstream, now time.Time) []*upstream {
	out := slices.Clone(ups)
	slices.SortStableFunc(out, func(a, b *upstream) int {
		x, y := a.dead(now), b.dead(now)
		switch {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
	return out
}

func (u *upstream) dead(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.failedAt.IsZero() && now.Sub(u.failedAt) < deadHold
}

func (u *upstream) state(now time.Time) Upstream {
	dead := u.dead(now)
	u.mu.Lock()
	defer u.mu.Unlock()
	return Upstream{Address: u.String(), Domain: u.domain, Alive: !dead, Seconds: u.average.Seconds(), Queries: u.queries, Failures: u.failures}
}

// ask sends one question and returns the reply that matches it.
func (u *upstream) ask(ctx context.Context, q question, c clock.Clock) (*dns.Msg, error) {
	start := c.Now()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m, err := u.exchange(ctx, q)
	took := c.Now().Sub(start)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queries++
	if err != nil {
		u.failures++
		u.failedAt = c.Now()
		return nil, err
	}
	u.failedAt = time.Time{}
	if u.average == 0 {
		u.average = took
	}
	u.average += (took - u.average) / 8
	return m, nil
}

func (u *upstream) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	query, wire, err := newQuery(q, !u.TLS)
	if err != nil {
		return nil, err
	}
	if u.TLS {
		return u.stream(ctx, query, wire)
	}
	m, err := u.datagram(ctx, query, wire)
	if errors.Is(err, errCase) || (err == nil && m.Truncated) {
		return u.stream(ctx, query, wire)
	}
	return m, err
}

// newQuery makes a query with a random id and, over UDP, random case (0x20).
func newQuery(q question, mixCase bool) (*dns.Msg, []byte, error) {
	var r [32]byte
	if _, err := rand.Read(r[:]); err != nil {
		return nil, nil, err
	}
	name := []byte(q.name)
	if mixCase {
		for i, c := range name {
			if c >= 'a' && c <= 'z' && r[2+(i/8)%30]>>(i%8)&1 == 1 && (i == 0 || name[i-1] != '\\') {
				name[i] = c - 'a' + 'A'
			}
		}
	}
	m := &dns.Msg{Question: []dns.Question{{Name: string(name), Qtype: q.qtype, Qclass: dns.ClassINET}}}
	m.Id = binary.BigEndian.Uint16(r[:2])
	m.RecursionDesired, m.CheckingDisabled = true, q.cd
	m.SetEdns0(udpAsk, q.do)
	wire, err := m.Pack()
	return m, wire, err
}

// matches reports whether m answers our query: id, question and case.
func matches(query, m *dns.Msg) bool {
	return m.Id == query.Id && m.Response && m.Opcode == dns.OpcodeQuery && len(m.Question) == 1 && m.Question[0] == query.Question[0]
}

// datagram asks by UDP from a new connected socket: port and source are checked by the kernel.
func (u *upstream) datagram(ctx context.Context, query *dns.Msg, wire []byte) (*dns.Msg, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", u.Addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if dl, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(dl); err != nil {
			return nil, err
		}
	}
	if _, err := c.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		var m dns.Msg
		if m.Unpack(buf[:n]) == nil && matches(query, &m) {
			return &m, nil
		}
		// Anything else is ignored: a forger must not be able to end our waiting.
		if m.Id == query.Id && len(m.Question) == 1 && strings.EqualFold(m.Question[0].Name, query.Question[0].Name) && m.Response {
			return nil, errCase
		}
	}
}

var errCase = errors.New("the upstream does not keep the case of names")

// stream asks by TCP, or TLS with the upstream's name verified.
func (u *upstream) stream(ctx context.Context, query *dns.Msg, wire []byte) (*dns.Msg, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", u.Addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if dl, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(dl); err != nil {
			return nil, err
		}
	}
	if u.TLS {
		t := tls.Client(c, &tls.Config{ServerName: u.Name, MinVersion: tls.VersionTLS13, NextProtos: []string{"dot"}})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		c = t
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil { //nolint:gosec // a query is short
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(c, body); err != nil {
		return nil, err
	}
	var m dns.Msg
	if err := m.Unpack(body); err != nil {
		return nil, fmt.Errorf("reply of %s: %w", u, err)
	}
	if !matches(query, &m) {
		return nil, fmt.Errorf("reply of %s is for another question", u)
	}
	return &m, nil
}
