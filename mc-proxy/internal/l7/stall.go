package l7

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// stalls finds body reads and writes that stand still. Each operation stores when it began; one goroutine looks once a
// second. So a healthy transfer costs two atomic stores an operation and no timer, and HTTP/2 streams are judged one by
// one, which a deadline on the connection could not do.
type stalls struct {
	mu   sync.Mutex
	open map[*stall]struct{}
}

// stall belongs to one request.
type stall struct {
	reading, writing atomic.Int64 // unix nanoseconds since when, 0: not

	mu   sync.Mutex
	rc   *http.ResponseController
	over bool // the handler has returned: rc must not be touched any more
}

func (s *stalls) add(w http.ResponseWriter) *stall {
	st := &stall{rc: http.NewResponseController(w)}
	s.mu.Lock()
	if s.open == nil {
		s.open = map[*stall]struct{}{}
	}
	s.open[st] = struct{}{}
	s.mu.Unlock()
	return st
}

func (s *stalls) remove(st *stall) {
	s.mu.Lock()
	delete(s.open, st)
	s.mu.Unlock()
	st.mu.Lock()
	st.over = true
	st.mu.Unlock()
}

func (s *stalls) watch(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			limit := now.Add(-stallTimeout).UnixNano()
			s.mu.Lock()
			for st := range s.open {
				st.enforce(limit, now)
			}
			s.mu.Unlock()
		}
	}
}

// enforce ends operations that began before limit: their deadline is now.
func (st *stall) enforce(limit int64, now time.Time) {
	late := func(v *atomic.Int64) bool { since := v.Load(); return since != 0 && since < limit }
	r, w := late(&st.reading), late(&st.writing)
	if !r && !w {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.over {
		return
	}
	if r {
		_ = st.rc.SetReadDeadline(now)
	}
	if w {
		_ = st.rc.SetWriteDeadline(now)
	}
}

// stallBody marks reads of a request's body.
type stallBody struct {
	io.ReadCloser
	s *stall
}

func (b *stallBody) Read(p []byte) (int, error) {
	b.s.reading.Store(time.Now().UnixNano())
	n, err := b.ReadCloser.Read(p)
	b.s.reading.Store(0)
	return n, err
}

// recorder notes what was answered and marks writes.
type recorder struct {
	http.ResponseWriter
	stall *stall
	code  int
	bytes int64
}

// Unwrap lets a ResponseController through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader notes the final status.
func (r *recorder) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

// Hijack notes that the connection became a tunnel.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.code = http.StatusSwitchingProtocols
	}
	return c, rw, err
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	r.stall.writing.Store(time.Now().UnixNano())
	n, err := r.ResponseWriter.Write(p)
	r.stall.writing.Store(0)
	r.bytes += int64(n)
	return n, err
}

func (r *recorder) status() int {
	if r.code == 0 {
		return http.StatusOK
	}
	return r.code
}
