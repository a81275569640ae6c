package forward

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"metacircular.net/mcns/internal/settings"
	"metacircular.net/mcns/internal/zone"
)

// cache holds whole answers under the question asked, least recently used first out. Safe for concurrent use.
type cache struct {
	cfg settings.Cache

	mu    sync.Mutex // guards the rest
	items map[question]*list.Element
	order *list.List // front = used last
	bytes int64
}

type item struct {
	q      question
	answer Answer
	stored time.Time
	ttl    time.Duration
	size   int64
	failed time.Time // until then a failure is known, and a stale answer given at once
	bad    Answer
	good   bool // answer is one, not only a remembered failure
}

func newCache(cfg settings.Cache) *cache {
	return &cache{cfg: cfg, items: map[question]*list.Element{}, order: list.New()}
}

// get returns a fresh answer, or a remembered failure (stale data if there is any).
func (c *cache) get(q question, now time.Time) (Answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.items[q]
	if e == nil {
		return Answer{}, false
	}
	it := e.Value.(*item) //nolint:forcetypeassert // the list holds items only
	c.order.MoveToFront(e)
	age := now.Sub(it.stored)
	if it.good && age >= 0 && age < it.ttl {
		return aged(it.answer, uint32(age/time.Second)), true
	}
	if now.Before(it.failed) {
		if a, ok := c.staleItem(it, now); ok {
			return a, true
		}
		return it.bad, true
	}
	return Answer{}, false
}

// stale returns an answer that has run out but may still serve.
func (c *cache) stale(q question, now time.Time) (Answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.items[q]; e != nil {
		return c.staleItem(e.Value.(*item), now) //nolint:forcetypeassert // the list holds items only
	}
	return Answer{}, false
}

func (c *cache) staleItem(it *item, now time.Time) (Answer, bool) {
	if !it.good || now.Sub(it.stored) > it.ttl+c.cfg.StaleMax.D() {
		return Answer{}, false
	}
	a := Answer{Rcode: it.answer.Rcode, Answer: withTTL(it.answer.Answer, staleTTL), Ns: withTTL(it.answer.Ns, staleTTL),
		EDE: dns.ExtendedErrorCodeStaleAnswer}
	if a.Rcode == dns.RcodeNameError {
		a.EDE = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
	}
	return a, true
}

// put stores an answer for as long as its records say.
func (c *cache) put(q question, a Answer, now time.Time) {
	ttl := c.cfg.MaxTTL.D()
	size := int64(len(q.name)) + 128
	for _, rr := range a.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		size += int64(dns.Len(rr)) + 64
	}
	if len(a.Answer) == 0 || a.Rcode != dns.RcodeSuccess {
		ttl = min(ttl, c.cfg.NegativeMax.D())
		found := false
		for _, rr := range a.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				ttl = min(ttl, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second)
				found = true
			}
			size += int64(dns.Len(rr)) + 64
		}
		if !found {
			ttl = 0 // RFC 2308 section 5: a negative answer without SOA is not cached
		}
	}
	c.store(&item{q: q, answer: a, stored: now, ttl: ttl, size: size, good: true})
}

// fail remembers that nobody answered, beside what was known before.
func (c *cache) fail(q question, a Answer, now time.Time) {
	c.mu.Lock()
	if e := c.items[q]; e != nil {
		it := e.Value.(*item) //nolint:forcetypeassert // the list holds items only
		it.failed, it.bad = now.Add(failureHold), a
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	c.store(&item{q: q, stored: now, size: int64(len(q.name)) + 128, failed: now.Add(failureHold), bad: a})
}

func (c *cache) store(it *item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.items[it.q]; e != nil {
		c.remove(e)
	}
	if it.size > c.cfg.MaxBytes.Bytes() {
		return
	}
	c.items[it.q] = c.order.PushFront(it)
	c.bytes += it.size
	for c.bytes > c.cfg.MaxBytes.Bytes() {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(e *list.Element) {
	it := e.Value.(*item) //nolint:forcetypeassert // the list holds items only
	c.order.Remove(e)
	delete(c.items, it.q)
	c.bytes -= it.size
}

func (c *cache) flush(name string, subtree bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	name = strings.ToLower(name)
	n := 0
	for q, e := range c.items {
		if name == "" || q.name == name || subtree && zone.Below(q.name, name) {
			c.remove(e)
			n++
		}
	}
	return n
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.items)
}

// aged returns the answer with its TTLs counted down.
func aged(a Answer, seconds uint32) Answer {
	down := func(rrs []dns.RR) []dns.RR {
		out := make([]dns.RR, len(rrs))
		for i, rr := range rrs {
			out[i] = dns.Copy(rr)
			if t := out[i].Header().Ttl; t > seconds {
				out[i].Header().Ttl = t - seconds
			} else {
				out[i].Header().Ttl = 0
			}
		}
		return out
	}
	a.Answer, a.Ns = down(a.Answer), down(a.Ns)
	return a
}

func withTTL(rrs []dns.RR, ttl uint32) []dns.RR {
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = dns.Copy(rr)
		out[i].Header().Ttl = ttl
	}
	return out
}
