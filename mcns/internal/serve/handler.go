package serve

import (
	"context"
	"encoding/hex"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcns/internal/answer"
	"metacircular.net/mcns/internal/forward"
	"metacircular.net/mcns/internal/zone"
)

// Limits.
const (
	maxForwarding  = 4096             // queries that wait for an upstream
	forwardTimeout = 10 * time.Second // for one of them
	minUDP         = 512
)

// From says where a message came from.
type From struct {
	Client netip.Addr
	Public bool // the listener never recurses
	TCP    bool
}

// Handler answers messages. Safe for concurrent use.
type Handler struct {
	View    func() *zone.View
	Forward *forward.Resolver     // nil = never
	Allow   func(netip.Addr) bool // which clients may recurse
	UDPSize int                   // most we send over UDP
	NSID    string

	Answers   atomic.Uint64
	Forwarded atomic.Uint64
	waiting   atomic.Int64
}

// MayRecurse reports whether a client may on this listener.
func (h *Handler) MayRecurse(f From) bool {
	return !f.Public && h.Forward != nil && h.Forward.Enabled() && h.Allow(f.Client.Unmap())
}

// edns is what the query's OPT record says.
type edns struct {
	present bool
	version uint8
	size    int
	do      bool
	nsid    bool
}

// Handle answers one message. reply is called at most once, perhaps later from another goroutine; it is
// not called for what only silence answers: fragments of a header and replies (two servers that answer
// each other's errors would never stop).
func (h *Handler) Handle(ctx context.Context, pkt []byte, f From, reply func([]byte)) {
	if len(pkt) < 12 || pkt[2]&0x80 != 0 {
		return
	}
	opcode := int(pkt[2]>>3) & 0xf
	id := uint16(pkt[0])<<8 | uint16(pkt[1])
	rd := pkt[2]&1 != 0
	fail := func(rcode int) {
		m := &dns.Msg{}
		m.Id, m.Response, m.Opcode, m.RecursionDesired, m.Rcode = id, true, opcode, rd, rcode
		h.send(m, edns{}, f, reply)
	}
	switch opcode {
	case dns.OpcodeQuery:
	case dns.OpcodeNotify:
		fail(dns.RcodeNotAuth) // we are nobody's secondary
		return
	default:
		fail(dns.RcodeNotImplemented)
		return
	}
	var q dns.Msg
	if !wellFormed(pkt) || q.Unpack(pkt) != nil || len(q.Question) != 1 {
		fail(dns.RcodeFormatError)
		return
	}
	m := &dns.Msg{}
	m.Id, m.Response, m.RecursionDesired, m.Question = id, true, rd, q.Question
	e, ok := readEDNS(&q)
	if !ok {
		m.Rcode = dns.RcodeFormatError
		h.send(m, edns{}, f, reply)
		return
	}
	if e.version > 0 {
		m.Rcode = dns.RcodeBadVers
		h.send(m, e, f, reply)
		return
	}
	h.query(ctx, &q, m, e, f, reply)
}

// query answers a well-formed question.
func (h *Handler) query(ctx context.Context, q, m *dns.Msg, e edns, f From, reply func([]byte)) {
	question := q.Question[0]
	refuse := func(rcode int, ede uint16, text string) {
		m.Rcode = rcode
		if e.present && ede != 0 {
			e.explain(m, ede, text)
		}
		h.send(m, e, f, reply)
	}
	if question.Qclass != dns.ClassINET {
		refuse(dns.RcodeRefused, 0, "")
		return
	}
	switch question.Qtype {
	case dns.TypeAXFR, dns.TypeIXFR:
		if !f.TCP && question.Qtype == dns.TypeAXFR {
			refuse(dns.RcodeFormatError, 0, "")
		} else {
			refuse(dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "transfers need a key")
		}
		return
	case dns.TypeOPT, dns.TypeNone, dns.TypeTSIG, dns.TypeTKEY:
		refuse(dns.RcodeFormatError, 0, "")
		return
	}
	recurse := h.MayRecurse(f)
	m.RecursionAvailable = recurse
	res := answer.Lookup(h.View(), answer.Question{Name: question.Name, Type: question.Qtype, DO: e.do}, false)
	if res.Found {
		m.Authoritative, m.Rcode = res.AA, res.Rcode
		m.Answer, m.Ns, m.Extra = res.Answer, res.Authority, res.Extra
		if res.Follow == "" || !recurse || !m.RecursionDesired {
			h.send(m, e, f, reply)
			return
		}
	} else if !recurse || !m.RecursionDesired {
		refuse(dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "")
		return
	}
	h.forward(ctx, q, m, res.Follow, e, f, reply)
}

// forward asks an upstream, for the question or for the end of a chain that left our zones.
func (h *Handler) forward(ctx context.Context, q, m *dns.Msg, follow string, e edns, f From, reply func([]byte)) {
	if h.waiting.Add(1) > maxForwarding {
		h.waiting.Add(-1)
		m.Rcode = dns.RcodeServerFailure
		if e.present {
			e.explain(m, dns.ExtendedErrorCodeNetworkError, "too many questions are waiting")
		}
		h.send(m, e, f, reply)
		return
	}
	h.Forwarded.Add(1)
	name := q.Question[0].Name
	if follow != "" {
		name = follow
	}
	run := func() {
		defer h.waiting.Add(-1)
		ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
		defer cancel()
		got := h.Forward.Resolve(ctx, name, q.Question[0].Qtype, e.do, q.CheckingDisabled)
		m.Rcode = got.Rcode
		// Where an upstream's chain enters one of our zones, our own data decides, not the upstream's copy.
		m.Answer = append(m.Answer, h.ours(got.Answer, q.Question[0].Qtype, e.do, m)...)
		if follow == "" {
			m.Ns = append(m.Ns, got.Ns...)
			m.CheckingDisabled = q.CheckingDisabled
		}
		if e.present && got.EDE != 0 {
			e.explain(m, got.EDE, got.Text)
		}
		h.send(m, e, f, reply)
	}
	if f.TCP {
		run() // a connection has its own goroutine
		return
	}
	go run() // bounded by maxForwarding; ends with forwardTimeout
}

// ours cuts a forwarded chain at the first name of our zones and goes on with our answer.
func (h *Handler) ours(rrs []dns.RR, qtype uint16, do bool, m *dns.Msg) []dns.RR {
	v := h.View()
	for i, rr := range rrs {
		cn, ok := rr.(*dns.CNAME)
		if !ok {
			continue
		}
		target, err := zone.Canonical(cn.Target)
		if err != nil || v.Find(target) == nil {
			continue
		}
		res := answer.Lookup(v, answer.Question{Name: target, Type: qtype, DO: do}, false)
		m.Rcode = res.Rcode
		m.Ns = append(m.Ns, res.Authority...)
		return append(rrs[:i+1:i+1], res.Answer...)
	}
	return rrs
}

// readEDNS finds the OPT record; false if there is more than one, or one that is malformed.
func readEDNS(q *dns.Msg) (edns, bool) {
	var e edns
	for _, section := range [][]dns.RR{q.Answer, q.Ns} {
		for _, rr := range section {
			if rr.Header().Rrtype == dns.TypeOPT {
				return e, false
			}
		}
	}
	for _, rr := range q.Extra {
		opt, ok := rr.(*dns.OPT)
		if !ok {
			continue
		}
		if e.present || opt.Hdr.Name != "." {
			return e, false
		}
		e = edns{present: true, version: opt.Version(), size: int(opt.UDPSize()), do: opt.Do()}
		for _, o := range opt.Option {
			if o.Option() == dns.EDNS0NSID {
				e.nsid = true
			}
		}
	}
	return e, true
}

// explain adds an extended error (RFC 8914).
func (e *edns) explain(m *dns.Msg, code uint16, text string) {
	opt := m.IsEdns0()
	if opt == nil {
		opt = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		m.Extra = append(m.Extra, opt)
	}
	opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
}

// send packs the reply, cut to what the client can take.
func (h *Handler) send(m *dns.Msg, e edns, f From, reply func([]byte)) {
	limit := dns.MaxMsgSize
	if !f.TCP {
		limit = minUDP
		if e.present {
			limit = min(max(e.size, minUDP), h.UDPSize)
		}
	}
	if e.present {
		opt := m.IsEdns0()
		if opt == nil {
			opt = &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
			m.Extra = append(m.Extra, opt)
		}
		opt.SetUDPSize(uint16(h.UDPSize)) //nolint:gosec // at most 4096
		if e.do {
			opt.SetDo()
		}
		if e.nsid && h.NSID != "" {
			opt.Option = append(opt.Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID, Nsid: hex.EncodeToString([]byte(h.NSID))})
		}
	}
	m.Compress = true
	if m.Len() > limit {
		m.Truncate(limit)
	}
	out, err := m.Pack()
	if err != nil {
		fail := &dns.Msg{Question: m.Question}
		fail.Id, fail.Response, fail.Opcode, fail.RecursionDesired, fail.Rcode = m.Id, true, m.Opcode, m.RecursionDesired, dns.RcodeServerFailure
		if out, err = fail.Pack(); err != nil {
			return
		}
	}
	h.Answers.Add(1)
	reply(out)
}
