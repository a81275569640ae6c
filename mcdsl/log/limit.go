package log

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Limits on repetition. Past maxMessages different messages in a second the rest share one count.
const (
	perSecond   = 10
	maxMessages = 512
)

// handler adds the request id and drops what repeats too fast. Requests at the edge are not limited
// by their text: the edge logs them with the message "request".
type handler struct {
	next  slog.Handler
	limit *limiter
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Message != Request {
		ok, dropped := h.limit.allow(r.Message)
		if !ok {
			return nil
		}
		if dropped > 0 {
			r.AddAttrs(slog.Int("suppressed", dropped))
		}
	}
	if id := RequestID(ctx); id != "" {
		r.AddAttrs(slog.String("req_id", id))
	}
	return h.next.Handle(ctx, r)
}

func (h *handler) WithAttrs(a []slog.Attr) slog.Handler {
	return &handler{next: h.next.WithAttrs(a), limit: h.limit}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{next: h.next.WithGroup(name), limit: h.limit}
}

// Request is the message of the one line per request at the edge; it is never suppressed.
const Request = "request"

// limiter counts messages per second. Safe for concurrent use.
type limiter struct {
	now func() time.Time

	mu     sync.Mutex // guards second and counts
	second int64
	counts map[string]*count
}

type count struct{ seen, dropped int }

func newLimiter(now func() time.Time) *limiter {
	return &limiter{now: now, counts: map[string]*count{}}
}

// allow reports whether the message may be written, and how many of its kind were left out before it.
func (l *limiter) allow(msg string) (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.now().Unix(); s != l.second {
		l.second = s
		for k, c := range l.counts {
			if c.dropped == 0 {
				delete(l.counts, k)
				continue
			}
			c.seen = 0
		}
	}
	c := l.counts[msg]
	if c == nil {
		if len(l.counts) >= maxMessages {
			msg = ""
			c = l.counts[msg]
		}
		if c == nil {
			c = &count{}
			l.counts[msg] = c
		}
	}
	c.seen++
	if c.seen > perSecond {
		c.dropped++
		return false, 0
	}
	dropped, c.dropped = c.dropped, 0
	return true, dropped
}
