package forward_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/config"

	"metacircular.net/mcns/internal/forward"
	"metacircular.net/mcns/internal/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstream is a fake server that counts.
type upstream struct {
	addr  string
	asked atomic.Int64
	mu    sync.Mutex // guards reply
	reply func(*dns.Msg) *dns.Msg
}

func (u *upstream) set(fn func(*dns.Msg) *dns.Msg) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reply = fn
}

func serveUpstream(t *testing.T) *upstream {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{addr: "udp://" + pc.LocalAddr().String(), reply: answerA("192.0.2.1", 60)}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		u.asked.Add(1)
		u.mu.Lock()
		fn := u.reply
		u.mu.Unlock()
		if m := fn(r); m != nil {
			if w.LocalAddr().Network() == "tcp" {
				m.Truncated = false
			}
			_ = w.WriteMsg(m)
		}
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

func answerA(addr string, ttl int) func(*dns.Msg) *dns.Msg {
	return func(r *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(r)
		rr, err := dns.NewRR(fmt.Sprintf("%s %d IN A %s", strings.ToLower(r.Question[0].Name), ttl, addr))
		if err == nil {
			m.Answer = []dns.RR{rr}
		}
		return m
	}
}

func fail(r *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(r, dns.RcodeServerFailure)
	return m
}

func resolver(t *testing.T, c clock.Clock, ups []string, fw ...settings.Forward) *forward.Resolver {
	t.Helper()
	r := forward.New(forward.Config{Clock: c, Cache: settings.Cache{MaxBytes: 1 << 20, MaxTTL: config.Duration(24 * time.Hour),
		NegativeMax: config.Duration(time.Hour), StaleMax: config.Duration(24 * time.Hour)}})
	if err := r.Set(ups, fw); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCacheTTLAndStale(t *testing.T) {
	t.Parallel()
	u := serveUpstream(t)
	c := clock.NewFake(time.Unix(1_800_000_000, 0))
	r := resolver(t, c, []string{u.addr})
	ask := func() forward.Answer { return r.Resolve(t.Context(), "X.example.", dns.TypeA, false, false) }
	if a := ask(); len(a.Answer) != 1 || a.Answer[0].Header().Ttl != 60 {
		t.Fatalf("first: %+v", a)
	}
	c.Advance(20 * time.Second)
	if a := ask(); a.Answer[0].Header().Ttl != 40 || u.asked.Load() != 1 {
		t.Errorf("cached: %+v, asked %d", a, u.asked.Load())
	}
	u.set(fail)
	c.Advance(60 * time.Second)
	if a := ask(); len(a.Answer) != 1 || a.Answer[0].Header().Ttl != 30 || a.EDE != dns.ExtendedErrorCodeStaleAnswer {
		t.Errorf("stale: %+v", a)
	}
	n := u.asked.Load()
	if a := ask(); len(a.Answer) != 1 || u.asked.Load() != n {
		t.Errorf("stale while the failure is known: %+v, asked %d more", a, u.asked.Load()-n)
	}
	c.Advance(25 * time.Hour)
	if a := ask(); a.Rcode != dns.RcodeServerFailure || len(a.Answer) != 0 {
		t.Errorf("too stale: %+v", a)
	}
	u.set(answerA("192.0.2.2", 60))
	c.Advance(10 * time.Second)
	if a := ask(); len(a.Answer) != 1 {
		t.Errorf("recovered: %+v", a)
	}
	if n := r.Flush("example.", true); n != 1 || r.Entries() != 0 {
		t.Errorf("flushed %d, left %d", n, r.Entries())
	}
}

func TestNegative(t *testing.T) {
	t.Parallel()
	u := serveUpstream(t)
	c := clock.NewFake(time.Unix(1_800_000_000, 0))
	r := resolver(t, c, []string{u.addr})
	u.set(func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg)
		m.SetRcode(q, dns.RcodeNameError)
		soa, _ := dns.NewRR("example. 3600 IN SOA a. b. 1 2 3 4 90")
		m.Ns = []dns.RR{soa}
		return m
	})
	for range 3 {
		if a := r.Resolve(t.Context(), "no.example.", dns.TypeA, false, false); a.Rcode != dns.RcodeNameError || len(a.Ns) != 1 {
			t.Errorf("%+v", a)
		}
	}
	if u.asked.Load() != 1 {
		t.Errorf("asked %d times", u.asked.Load())
	}
	c.Advance(91 * time.Second)
	r.Resolve(t.Context(), "no.example.", dns.TypeA, false, false)
	if u.asked.Load() != 2 {
		t.Errorf("asked %d times after the negative TTL", u.asked.Load())
	}
	r.Resolve(t.Context(), "no.example.", dns.TypeA, false, true)
	if u.asked.Load() != 3 {
		t.Error("an answer for CD=0 was given to CD=1")
	}
}

// Many who ask the same at once cause one query.
func TestSingleFlight(t *testing.T) {
	t.Parallel()
	u := serveUpstream(t)
	release := make(chan struct{})
	u.set(func(q *dns.Msg) *dns.Msg { <-release; return answerA("192.0.2.1", 60)(q) })
	r := resolver(t, nil, []string{u.addr})
	var wg sync.WaitGroup
	var good atomic.Int64
	for range 200 {
		wg.Go(func() {
			if a := r.Resolve(t.Context(), "one.example.", dns.TypeA, false, false); len(a.Answer) == 1 {
				good.Add(1)
			}
		})
	}
	for u.asked.Load() == 0 {
		time.Sleep(time.Millisecond) // polling; nothing depends on how long it takes
	}
	close(release)
	wg.Wait()
	if u.asked.Load() != 1 || good.Load() != 200 {
		t.Errorf("asked %d times, %d good answers", u.asked.Load(), good.Load())
	}
}

// Replies that do not match the query are ignored; a truncated one is asked again by TCP.
func TestForgeriesAndTruncation(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*dns.Msg){
		"id":       func(m *dns.Msg) { m.Id++ },
		"question": func(m *dns.Msg) { m.Question[0].Name = "other.example." },
		"query":    func(m *dns.Msg) { m.Response = false },
	} {
		u := serveUpstream(t)
		u.set(func(q *dns.Msg) *dns.Msg { m := answerA("6.6.6.6", 60)(q); change(m); return m })
		r := resolver(t, nil, []string{u.addr})
		if a := r.Resolve(t.Context(), "x.example.", dns.TypeA, false, false); len(a.Answer) != 0 {
			t.Errorf("%s: a forged reply was taken: %+v", name, a)
		}
	}
	for name, change := range map[string]func(*dns.Msg){
		"truncated": func(m *dns.Msg) { m.Truncated = true; m.Answer = nil },
		"case lost": func(m *dns.Msg) { m.Question[0].Name = strings.ToLower(m.Question[0].Name) },
	} {
		u := serveUpstream(t)
		var later atomic.Bool
		u.set(func(q *dns.Msg) *dns.Msg {
			m := answerA("192.0.2.1", 60)(q)
			if !later.Swap(true) {
				change(m)
			}
			return m
		})
		r := resolver(t, nil, []string{u.addr})
		if a := r.Resolve(t.Context(), "abcdefghijklmnopqrstuvwxyz.example.", dns.TypeA, false, false); len(a.Answer) != 1 {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// The longest [[forward]] decides and never falls back; special names leave nobody.
func TestRouting(t *testing.T) {
	t.Parallel()
	def, corp := serveUpstream(t), serveUpstream(t)
	corp.set(fail)
	r := resolver(t, nil, []string{def.addr}, settings.Forward{Domain: "corp.example", Upstreams: []string{corp.addr}},
		settings.Forward{Domain: "10.in-addr.arpa", Upstreams: []string{corp.addr}})
	if a := r.Resolve(t.Context(), "a.corp.example.", dns.TypeA, false, false); a.Rcode != dns.RcodeServerFailure || def.asked.Load() != 0 {
		t.Errorf("a private name leaked: %+v, default asked %d", a, def.asked.Load())
	}
	r.Resolve(t.Context(), "1.0.0.10.in-addr.arpa.", dns.TypePTR, false, false)
	if corp.asked.Load() != 2 {
		t.Errorf("corp asked %d", corp.asked.Load())
	}
	for name, rcode := range map[string]int{"localhost.": dns.RcodeSuccess, "x.invalid.": dns.RcodeNameError, "a.onion.": dns.RcodeNameError,
		"1.1.168.192.in-addr.arpa.": dns.RcodeNameError, "1.0.16.172.in-addr.arpa.": dns.RcodeNameError} {
		if a := r.Resolve(t.Context(), name, dns.TypeA, false, false); a.Rcode != rcode {
			t.Errorf("%s: %+v", name, a)
		}
	}
	if def.asked.Load() != 0 {
		t.Error("a special name left the machine")
	}
	r.Resolve(t.Context(), "1.0.32.172.in-addr.arpa.", dns.TypePTR, false, false)
	if def.asked.Load() != 1 {
		t.Error("a public reverse name was not asked")
	}
}
