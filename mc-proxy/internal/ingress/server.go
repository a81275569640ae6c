package ingress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mc-proxy/internal/hello"
	"metacircular.net/mc-proxy/internal/table"
)

const sweepEvery = 5 * time.Second

// Server is the data path. Safe for concurrent use.
type Server struct {
	cfg        Config
	settings   atomic.Pointer[Settings]
	active     atomic.Int64
	peeked     atomic.Int64 // bytes in peek buffers beyond their first 4 KiB
	sources    sources
	handshakes slots
	readers    sync.Pool // of *hello.Reader
	owners     sync.Map  // *socket → *listener
	retired    sync.WaitGroup
	stopping   context.Context
	stop       context.CancelFunc
	swept      chan struct{}

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener
}

// New returns a Server without listeners.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, listeners: map[string]*listener{}, sources: sources{n: map[netip.Prefix]int{}}, swept: make(chan struct{})}
	s.readers.New = func() any { return &hello.Reader{} }
	s.settings.Store(&Settings{})
	s.stopping, s.stop = context.WithCancel(context.Background())
	cfg.Dialer.Guard(s.Own)
	go s.sweep()
	return s
}

// Settings returns the settings in force.
func (s *Server) Settings() *Settings { return s.settings.Load() }

// Active returns how many connections live.
func (s *Server) Active() int64 { return s.active.Load() }

// SourceCount returns how many connections a client's source has.
func (s *Server) SourceCount(a netip.Addr) int { return s.sources.count(a) }

func (s *Server) sweep() {
	defer close(s.swept)
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stopping.Done():
			return
		case <-t.C:
			if s.active.Load() > 0 {
				s.cfg.Conns.Sweep(s.Settings().Timeouts.Linger)
			}
		}
	}
}

// accept takes connections from one socket until it is closed.
func (s *Server) accept(sock *socket) {
	defer close(sock.done)
	pause := 5 * time.Millisecond
	var lastLog time.Time
	for {
		c, err := sock.ln.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors: everybody who is in stays in, and new ones wait in the kernel's queue.
			if now := s.cfg.Now(); now.Sub(lastLog) > time.Second {
				lastLog = now
				s.cfg.Log.Error("cannot accept", "addr", sock.addr, "err", err)
			}
			t := time.NewTimer(pause)
			select {
			case <-t.C:
			case <-s.stopping.Done():
				t.Stop()
			}
			pause = min(2*pause, 100*time.Millisecond)
			continue
		}
		pause = 5 * time.Millisecond
		v, ok := s.owners.Load(sock)
		l, isListener := v.(*listener)
		if !ok || !isListener {
			reset(c)
			continue
		}
		s.take(l, c)
	}
}

// take applies the caps and starts a goroutine for the connection.
func (s *Server) take(l *listener, c *net.TCPConn) {
	set, spec := s.settings.Load(), l.spec.Load()
	n, m := s.active.Add(1), l.active.Add(1)
	over := n > int64(set.Limits.MaxConnections) || spec.MaxConnections > 0 && m > int64(spec.MaxConnections)
	if over {
		s.active.Add(-1)
		l.active.Add(-1)
		s.cfg.Metrics.Rejected(spec.Name, string(table.MaxConns))
		reset(c)
		return
	}
	rec := s.cfg.Conns.Add(spec.Name, c, addrPortOf(c.RemoteAddr()), s.cfg.Now())
	in := &inbound{s: s, l: l, spec: spec, set: set, raw: c, rec: rec, start: s.cfg.Now()}
	go in.serve()
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	c.Close()
}

// StopAccepting closes the listening sockets.
func (s *Server) StopAccepting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, l := range s.listeners {
		for _, sock := range l.sockets {
			sock.ln.Close()
		}
	}
}

// Shutdown stops accepting, lets what runs end until ctx does, and then closes the rest.
func (s *Server) Shutdown(ctx context.Context) error {
	s.StopAccepting()
	s.mu.Lock()
	ls := make([]*listener, 0, len(s.listeners))
	for _, l := range s.listeners {
		ls = append(ls, l)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, l := range ls {
		wg.Go(func() { _ = l.shutdown(ctx) })
	}
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for s.cfg.Conns.Len() > 0 && ctx.Err() == nil {
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	for _, c := range s.cfg.Conns.All() {
		c.Kill()
	}
	wg.Wait()
	s.stop()
	s.retired.Wait()
	<-s.swept
	return nil
}

// sources counts live connections by source; it is bounded by them.
type sources struct {
	mu sync.Mutex
	n  map[netip.Prefix]int
}

func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

func (s *sources) enter(a netip.Addr, limit int) bool {
	k := sourceOf(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if limit > 0 && s.n[k] >= limit {
		return false
	}
	s.n[k]++
	return true
}

func (s *sources) leave(a netip.Addr) {
	k := sourceOf(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n[k]--; s.n[k] <= 0 {
		delete(s.n, k)
	}
}

func (s *sources) count(a netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[sourceOf(a)]
}

// gone reports whether the client has closed its side, without taking a byte. It returns when something can be read,
// or when the read deadline passes.
func gone(c *net.TCPConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	var b [1]byte
	err = rc.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return false
		}
		closed = err != nil || n == 0
		return true
	})
	return err == nil && closed
}
