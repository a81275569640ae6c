package serve_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"metacircular.net/mcdsl/config"

	"metacircular.net/mcns/internal/forward"
	"metacircular.net/mcns/internal/serve"
	"metacircular.net/mcns/internal/settings"
	"metacircular.net/mcns/internal/zone"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testZone(t testing.TB) *zone.View {
	t.Helper()
	z := &zone.Zone{Name: "z.", MName: "ns.z.", RName: "h.z.", Minimum: 60, DefaultTTL: 300, Serial: 7}
	add := func(name string, typ uint16, text string) {
		z.Records = append(z.Records, zone.Record{Name: name, Type: typ, TTL: 300, Text: text})
	}
	add("z.", dns.TypeNS, "ns.z.")
	add("www.z.", dns.TypeA, "10.0.0.1")
	add("out.z.", dns.TypeCNAME, "far.example.")
	for i := range 60 {
		add("big.z.", dns.TypeTXT, `"`+strings.Repeat("x", 200)+string(rune('a'+i%26))+string(rune('a'+i/26))+`"`)
	}
	c, _, err := zone.Compile(z)
	if err != nil {
		t.Fatal(err)
	}
	return zone.NewView(c)
}

func cacheSettings() settings.Cache {
	return settings.Cache{MaxBytes: 1 << 20, MaxTTL: config.Duration(time.Hour), NegativeMax: config.Duration(time.Hour), StaleMax: config.Duration(time.Hour)}
}

func handler(t testing.TB, r *forward.Resolver) *serve.Handler {
	v := testZone(t)
	return &serve.Handler{View: func() *zone.View { return v }, Forward: r, UDPSize: 1232, NSID: "here",
		Allow: func(a netip.Addr) bool { return a.IsLoopback() }}
}

// ask gives one message to the handler and returns the reply, nil for silence.
func ask(t testing.TB, h *serve.Handler, pkt []byte, f serve.From) []byte {
	t.Helper()
	f.Client = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var out []byte
	h.Handle(context.Background(), pkt, f, func(b []byte) { out = b })
	return out
}

func query(name string, t uint16, change func(*dns.Msg)) []byte {
	m := new(dns.Msg)
	m.SetQuestion(name, t)
	if change != nil {
		change(m)
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

func TestMessages(t *testing.T) {
	t.Parallel()
	h := handler(t, forward.New(forward.Config{Cache: cacheSettings()}))
	patch := func(b []byte, i int, v byte) []byte { b[i] = v; return b }
	for _, tc := range []struct {
		name  string
		pkt   []byte
		tcp   bool
		rcode int // -1 = silence
		check func(m *dns.Msg) bool
	}{
		{name: "empty", rcode: -1},
		{name: "short", pkt: make([]byte, 11), rcode: -1},
		{name: "a response", pkt: query("www.z.", dns.TypeA, func(m *dns.Msg) { m.Response = true }), rcode: -1},
		{name: "no question", pkt: make([]byte, 12), rcode: dns.RcodeFormatError},
		{name: "two questions", pkt: query("www.z.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), rcode: dns.RcodeFormatError},
		{name: "cut", pkt: query("www.z.", dns.TypeA, nil)[:15], rcode: dns.RcodeFormatError},
		{name: "pointer loop", pkt: append(patch(make([]byte, 12), 5, 1), 0xc0, 12, 0, 1, 0, 1), rcode: dns.RcodeFormatError},
		{name: "counts that lie", pkt: patch(query("www.z.", dns.TypeA, nil), 7, 9), rcode: dns.RcodeFormatError},
		{name: "status opcode", pkt: query("www.z.", dns.TypeA, func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }), rcode: dns.RcodeNotImplemented},
		{name: "update", pkt: query("z.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), rcode: dns.RcodeNotImplemented},
		{name: "notify", pkt: query("z.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), rcode: dns.RcodeNotAuth},
		{name: "chaos", pkt: query("version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), rcode: dns.RcodeRefused},
		{name: "AXFR over UDP", pkt: query("z.", dns.TypeAXFR, nil), rcode: dns.RcodeFormatError},
		{name: "AXFR over TCP", pkt: query("z.", dns.TypeAXFR, nil), tcp: true, rcode: dns.RcodeRefused},
		{name: "EDNS 1", pkt: query("www.z.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), rcode: dns.RcodeBadVers,
			check: func(m *dns.Msg) bool { return len(m.Answer) == 0 && m.IsEdns0().Version() == 0 }},
		{name: "two OPT", pkt: query("www.z.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false); m.Extra = append(m.Extra, m.Extra[0]) }), rcode: dns.RcodeFormatError},
		{name: "not ours", pkt: query("far.example.", dns.TypeA, nil), rcode: dns.RcodeRefused, check: func(m *dns.Msg) bool { return !m.RecursionAvailable }},
		{name: "answer", pkt: query("wWw.z.", dns.TypeA, func(m *dns.Msg) { m.CheckingDisabled, m.AuthenticatedData = true, true }), rcode: dns.RcodeSuccess,
			check: func(m *dns.Msg) bool {
				return m.Authoritative && len(m.Answer) == 1 && m.Question[0].Name == "wWw.z." && !m.CheckingDisabled && !m.AuthenticatedData && m.RecursionDesired && m.IsEdns0() == nil
			}},
		{name: "DO and NSID", pkt: query("www.z.", dns.TypeA, func(m *dns.Msg) {
			m.SetEdns0(4096, true)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
		}), rcode: dns.RcodeSuccess, check: func(m *dns.Msg) bool {
			return m.IsEdns0().Do() && m.IsEdns0().UDPSize() == 1232 && len(m.IsEdns0().Option) == 1
		}},
		{name: "big over UDP", pkt: query("big.z.", dns.TypeTXT, func(m *dns.Msg) { m.SetEdns0(4096, false) }), rcode: dns.RcodeSuccess, check: func(m *dns.Msg) bool { return m.Truncated }},
		{name: "big over TCP", pkt: query("big.z.", dns.TypeTXT, nil), tcp: true, rcode: dns.RcodeSuccess, check: func(m *dns.Msg) bool { return !m.Truncated && len(m.Answer) == 60 }},
	} {
		out := ask(t, h, tc.pkt, serve.From{TCP: tc.tcp})
		if tc.rcode < 0 {
			if out != nil {
				t.Errorf("%s: answered %x", tc.name, out)
			}
			continue
		}
		var m dns.Msg
		if err := m.Unpack(out); err != nil {
			t.Errorf("%s: reply %x: %v", tc.name, out, err)
			continue
		}
		if m.Rcode != tc.rcode || !m.Response || !tc.tcp && len(out) > 1232 {
			t.Errorf("%s: rcode %s, %d bytes; want %s", tc.name, dns.RcodeToString[m.Rcode], len(out), dns.RcodeToString[tc.rcode])
		}
		if tc.check != nil && !tc.check(&m) {
			t.Errorf("%s: %v", tc.name, &m)
		}
	}
}

func FuzzHandle(f *testing.F) {
	h := handler(f, nil)
	f.Add(query("www.z.", dns.TypeA, nil))
	f.Add(query("big.z.", dns.TypeTXT, func(m *dns.Msg) { m.SetEdns0(512, true) }))
	f.Add([]byte{0, 1, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, pkt []byte) {
		for _, tcp := range []bool{false, true} {
			if out := ask(t, h, pkt, serve.From{TCP: tcp}); out != nil {
				if len(pkt) < 12 || pkt[2]&0x80 != 0 {
					t.Error("answered what only silence answers")
				}
				if len(out) < 12 || out[2]&0x80 == 0 || out[0] != pkt[0] || out[1] != pkt[1] {
					t.Errorf("reply %x to %x", out, pkt)
				}
			}
		}
	})
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func listeners(t *testing.T, h *serve.Handler, tcp serve.TCPLimits) *serve.Listeners {
	t.Helper()
	if tcp.MaxConns == 0 {
		tcp = serve.TCPLimits{MaxConns: 8, PerPrefix: 8, FirstByte: 5 * time.Second, Idle: 5 * time.Second}
	}
	l := serve.NewListeners(serve.Config{Handler: h, TCP: tcp})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestListeners(t *testing.T) {
	t.Parallel()
	l := listeners(t, handler(t, nil), serve.TCPLimits{})
	a, b := freePort(t), freePort(t)
	if err := l.Set([]netip.AddrPort{a}, nil); err != nil {
		t.Fatal(err)
	}
	exchange := func(network string, at netip.AddrPort) error {
		m := new(dns.Msg)
		m.SetQuestion("www.z.", dns.TypeA)
		r, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(m, at.String())
		if err == nil && len(r.Answer) != 1 {
			t.Errorf("%s: %v", network, r)
		}
		return err
	}
	for _, network := range []string{"udp", "tcp"} {
		if err := exchange(network, a); err != nil {
			t.Errorf("%s: %v", network, err)
		}
	}
	// A second server on the same address must fail and say so.
	if err := listeners(t, handler(t, nil), serve.TCPLimits{}).Set([]netip.AddrPort{a}, nil); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("second server: %v", err)
	}
	// Exchange of addresses while serving; an address nobody has yet can be bound.
	later := netip.MustParseAddrPort("192.0.2.77:5399")
	if err := l.Set([]netip.AddrPort{b, later}, nil); err != nil {
		t.Fatal(err)
	}
	if err := exchange("udp", b); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", a.String()); err == nil {
		t.Error("the old address is still open")
	}
	for _, s := range l.States() {
		if !s.Bound {
			t.Errorf("%+v", s)
		}
	}
}

func TestTCPPipelineAndLimits(t *testing.T) {
	t.Parallel()
	l := listeners(t, handler(t, nil), serve.TCPLimits{MaxConns: 1, PerPrefix: 1, FirstByte: 5 * time.Second, Idle: 5 * time.Second})
	at := freePort(t)
	if err := l.Set([]netip.AddrPort{at}, nil); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out []byte
	for range 3 {
		q := query("www.z.", dns.TypeA, nil)
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(q))), q...) //nolint:gosec // short
	}
	if _, err := c.Write(out); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		var n [2]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(n[:]))); err != nil {
			t.Fatal(err)
		}
	}
	// One connection is all there may be: the second is closed at once.
	d, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(make([]byte, 1)); err == nil {
		t.Error("a connection over the limit was served")
	}
}

// A chain that leaves our zones goes on at the upstream, and comes back to our own data.
func TestForwardedChain(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		cn, _ := dns.NewRR("far.example. 60 IN CNAME www.z.")
		a, _ := dns.NewRR("www.z. 60 IN A 6.6.6.6")
		m.Answer = []dns.RR{cn, a}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = up.ActivateAndServe() }()
	t.Cleanup(func() { _ = up.Shutdown() })
	r := forward.New(forward.Config{Cache: cacheSettings()})
	if err := r.Set([]string{"udp://" + pc.LocalAddr().String()}, nil); err != nil {
		t.Fatal(err)
	}
	h := handler(t, r)
	var m dns.Msg
	if err := m.Unpack(ask(t, h, query("out.z.", dns.TypeA, nil), serve.From{TCP: true})); err != nil {
		t.Fatal(err)
	}
	last := m.Answer[len(m.Answer)-1]
	if len(m.Answer) != 3 || !strings.HasSuffix(last.String(), "10.0.0.1") || m.Rcode != dns.RcodeSuccess || !m.RecursionAvailable {
		t.Errorf("answer %v", m.Answer)
	}
	// Public listeners and strangers get nothing forwarded.
	for _, f := range []serve.From{{Public: true, TCP: true}} {
		if err := m.Unpack(ask(t, h, query("far.example.", dns.TypeA, nil), f)); err != nil || m.Rcode != dns.RcodeRefused {
			t.Errorf("public: %v, %v", m.Rcode, err)
		}
	}
	h.Allow = func(netip.Addr) bool { return false }
	if err := m.Unpack(ask(t, h, query("far.example.", dns.TypeA, nil), serve.From{TCP: true})); err != nil || m.Rcode != dns.RcodeRefused {
		t.Errorf("stranger: %v, %v", m.Rcode, err)
	}
}
