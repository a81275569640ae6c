package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mcdsl/fault"

	"metacircular.net/mc-proxy/internal/l7"
)

// listener is a configured listener with its sockets.
type listener struct {
	spec   atomic.Pointer[Listener]
	active atomic.Int64

	front    *l7.Front    // of kind tls
	redirect *l7.Redirect // of kind redirect
	sockets  map[string]*socket
}

type socket struct {
	addr  string // as configured
	ln    *net.TCPListener
	bound netip.AddrPort
	done  chan struct{}
}

// listen binds one address. IP_FREEBIND lets it be one that does not exist yet: at boot the bridges of container
// networks come after us.
func listen(addr string) (*net.TCPListener, error) {
	lc := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 15 * time.Second, Count: 4},
		Control: func(_, _ string, c syscall.RawConn) error {
			var serr error
			if err := c.Control(func(fd uintptr) {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
			}); err != nil {
				return err
			}
			return serr
		},
	}
	ln, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, bindError(addr, err)
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		ln.Close()
		return nil, fmt.Errorf("listen on %s: not TCP", addr)
	}
	return tcp, nil
}

// bindError says what a person can do about it.
func bindError(addr string, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fault.New(fault.Precondition, "cannot listen on %s: another process has the port", addr).
			WithReason("PORT_TAKEN").WithNext("ss -ltnp 'sport = :%s'", portOf(addr)).Wrap(err)
	case errors.Is(err, unix.EACCES):
		return fault.New(fault.Precondition, "cannot listen on %s: ports below %s need CAP_NET_BIND_SERVICE", addr, "1024").
			WithReason("PORT_DENIED").WithNext("run it from its unit, or choose ports above 1023").Wrap(err)
	}
	return fault.New(fault.Precondition, "cannot listen on %s", addr).Wrap(err)
}

func portOf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return port
}

// Configure makes the listeners and settings what is given. New addresses are bound first; if one cannot be, nothing
// changes. Connections are never touched. It returns what it did, in words.
func (s *Server) Configure(specs []Listener, set Settings) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fault.New(fault.Unavailable, "the proxy is stopping")
	}
	fresh, dropped, err := s.rebind(specs)
	if err != nil {
		return nil, err
	}
	s.settings.Store(&set)
	s.handshakes.resize(set.Limits.Handshakes)
	var changes []string
	for _, sock := range dropped {
		s.owners.Delete(sock)
		changes = append(changes, "stopped listening on "+sock.addr)
	}
	for name, l := range s.listeners {
		if !slices.ContainsFunc(specs, func(x Listener) bool { return x.Name == name }) {
			delete(s.listeners, name)
			s.retire(l)
			changes = append(changes, "listener "+name+" removed")
		}
	}
	for i := range specs {
		spec := specs[i]
		l := s.listeners[spec.Name]
		if l != nil && l.spec.Load().Kind != spec.Kind {
			s.retire(l)
			l = nil
		}
		if l == nil {
			l = s.newListener(spec)
			s.listeners[spec.Name] = l
			changes = append(changes, "listener "+spec.Name+" added")
		}
		l.spec.Store(&spec)
		if l.redirect != nil {
			l.redirect.SetRules(spec.Rules)
		}
		l.sockets = map[string]*socket{}
	}
	for _, b := range fresh {
		l := s.listeners[b.owner]
		l.sockets[b.sock.addr] = b.sock
		s.owners.Store(b.sock, l)
		if b.isNew {
			changes = append(changes, "listening on "+b.sock.addr+" ("+b.owner+")")
			go s.accept(b.sock)
		}
	}
	return changes, nil
}

type binding struct {
	owner string
	sock  *socket
	isNew bool
}

// rebind works out which sockets stay, binds the missing ones and closes those no longer wanted. On an error all is as
// it was.
func (s *Server) rebind(specs []Listener) (all []binding, dropped []*socket, err error) {
	have := map[string]*socket{}
	for _, l := range s.listeners {
		for addr, sock := range l.sockets {
			have[addr] = sock
		}
	}
	wanted := map[string]bool{}
	var made []*socket
	undo := func() {
		for _, sock := range made {
			sock.ln.Close()
		}
	}
	var missing []binding
	for _, spec := range specs {
		for _, addr := range spec.Addrs {
			if wanted[addr] {
				undo()
				return nil, nil, fault.New(fault.Invalid, "%s is given to two listeners", addr)
			}
			wanted[addr] = true
			if sock := have[addr]; sock != nil {
				all = append(all, binding{owner: spec.Name, sock: sock})
				continue
			}
			missing = append(missing, binding{owner: spec.Name, sock: &socket{addr: addr, done: make(chan struct{})}, isNew: true})
		}
	}
	var gone []*socket
	for addr, sock := range have {
		if !wanted[addr] {
			gone = append(gone, sock)
		}
	}
	closedEarly := map[*socket]bool{}
	for _, b := range missing {
		ln, err := listen(b.sock.addr)
		if err != nil && errors.Is(err, unix.EADDRINUSE) {
			// A wildcard of ours that is about to go stands in the way of an address of its own, or the reverse.
			for _, sock := range gone {
				if portOf(sock.addr) == portOf(b.sock.addr) && !closedEarly[sock] {
					sock.ln.Close()
					closedEarly[sock] = true
				}
			}
			ln, err = listen(b.sock.addr)
		}
		if err != nil {
			undo()
			s.reopen(closedEarly)
			return nil, nil, err
		}
		b.sock.ln, b.sock.bound = ln, addrPortOf(ln.Addr())
		made = append(made, b.sock)
		all = append(all, b)
	}
	for _, sock := range gone {
		sock.ln.Close()
	}
	return all, gone, nil
}

// reopen binds sockets again that were closed for a change that then failed.
func (s *Server) reopen(closed map[*socket]bool) {
	for sock := range closed {
		ln, err := listen(sock.addr)
		if err != nil {
			s.cfg.Log.Error("listener lost in a failed change", "addr", sock.addr, "err", err)
			continue
		}
		<-sock.done
		sock.ln, sock.done = ln, make(chan struct{})
		go s.accept(sock)
	}
}

func (s *Server) newListener(spec Listener) *listener {
	l := &listener{sockets: map[string]*socket{}}
	l.spec.Store(&spec)
	cfg := l7.Config{Snapshot: s.cfg.Snapshot, Access: s.cfg.Access, Metrics: s.cfg.Metrics, Log: s.cfg.Log, Trusted: s.trustsForwarder}
	if spec.Kind == Redirect {
		l.redirect = l7.NewRedirect(spec.Name, cfg, s.cfg.Dialer, spec.Rules)
	} else {
		l.front = l7.NewFront(spec.Name, cfg)
	}
	return l
}

func (s *Server) trustsForwarder(name string, peer netip.Addr) bool {
	s.mu.Lock()
	l := s.listeners[name]
	s.mu.Unlock()
	return l != nil && contains(l.spec.Load().Forwarders, peer)
}

// retire lets the requests of a removed listener end by themselves, within bounds.
func (s *Server) retire(l *listener) {
	s.retired.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		stop := context.AfterFunc(s.stopping, cancel)
		defer stop()
		_ = l.shutdown(ctx)
	})
}

func (l *listener) shutdown(ctx context.Context) error {
	if l.redirect != nil {
		return l.redirect.Shutdown(ctx)
	}
	return l.front.Shutdown(ctx)
}

// Status is a listener as it stands.
type Status struct {
	Listener
	Bound  []string
	Active int64
}

// Listeners returns the listeners in order of their names.
func (s *Server) Listeners() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, 0, len(s.listeners))
	for _, l := range s.listeners {
		st := Status{Listener: *l.spec.Load(), Active: l.active.Load()}
		for _, sock := range l.sockets {
			st.Bound = append(st.Bound, sock.bound.String())
		}
		slices.Sort(st.Bound)
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Status) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// Listener returns the definition of a listener.
func (s *Server) Listener(name string) (Listener, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[name]; l != nil {
		return *l.spec.Load(), true
	}
	return Listener{}, false
}

// Own reports whether an address is one the proxy listens on, wildcard binds included.
func (s *Server) Own(ap netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		for _, sock := range l.sockets {
			b := sock.bound
			if b.Port() != ap.Port() {
				continue
			}
			if b.Addr() == ap.Addr() || b.Addr().IsUnspecified() && local(ap.Addr()) {
				return true
			}
		}
	}
	return false
}

// local reports whether an address belongs to this machine.
func local(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(x net.Addr) bool {
		n, ok := x.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == a.Unmap()
	})
}

func addrPortOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// HTTPSPort returns the port clients reach a tls listener on.
func HTTPSPort(l Listener) int {
	for _, a := range l.Addrs {
		if n, err := strconv.Atoi(portOf(a)); err == nil {
			return n
		}
	}
	return 443
}

// slots is a counting semaphore whose size a reload may change.
type slots struct {
	mu   sync.Mutex
	used int
	size int
	free chan struct{}
}

func (s *slots) resize(n int) {
	s.mu.Lock()
	s.size = n
	s.wakeLocked()
	s.mu.Unlock()
}

func (s *slots) wakeLocked() {
	if s.free != nil && s.used < s.size {
		close(s.free)
		s.free = nil
	}
}

// take waits for a slot until ctx ends.
func (s *slots) take(ctx context.Context) bool {
	for {
		s.mu.Lock()
		if s.used < s.size {
			s.used++
			s.mu.Unlock()
			return true
		}
		if s.free == nil {
			s.free = make(chan struct{})
		}
		free := s.free
		s.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return false
		}
	}
}

func (s *slots) give() {
	s.mu.Lock()
	s.used--
	s.wakeLocked()
	s.mu.Unlock()
}
