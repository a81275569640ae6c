package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/log"
)

// retryEvery is how often an address that could not be bound is tried again.
const retryEvery = 2 * time.Second

// TCPLimits bound connections.
type TCPLimits struct {
	MaxConns, PerPrefix int
	FirstByte, Idle     time.Duration
}

// Config describes Listeners.
type Config struct {
	Handler *Handler
	TCP     TCPLimits
	Log     *slog.Logger
}

// Listeners owns the DNS sockets. Safe for concurrent use.
type Listeners struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	tcp    *connLimit
	wg     sync.WaitGroup

	mu     sync.Mutex // guards want, bound and closed
	want   map[key]bool
	bound  map[key]*socket
	errs   map[key]error
	closed bool
}

type key struct {
	addr   netip.AddrPort
	public bool
}

// socket is a UDP and a TCP listener on one address.
type socket struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

// State is one listener as status shows it.
type State struct {
	Addr   netip.AddrPort
	Public bool
	Bound  bool
	Err    string
}

// NewListeners returns a set without sockets. ctx ends with Close, not with the caller.
func NewListeners(cfg Config) *Listeners {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Listeners{cfg: cfg, ctx: ctx, cancel: cancel, tcp: newConnLimit(cfg.TCP), want: map[key]bool{}, bound: map[key]*socket{}, errs: map[key]error{}}
	l.cfg.Log = log.Or(cfg.Log)
	l.wg.Go(l.retry)
	return l
}

// Set makes these the addresses served. New ones are open before old ones close. The error names every
// address that could not be bound; those are tried again until they can or are no longer wanted.
func (l *Listeners) Set(internal, public []netip.AddrPort) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("listeners are closed")
	}
	want := map[key]bool{}
	for _, a := range internal {
		want[key{a, false}] = true
	}
	for _, a := range public {
		want[key{a, true}] = true
	}
	// An address whose role changes must close first: one port cannot be bound twice.
	for k, s := range l.bound {
		if !want[k] && want[key{k.addr, !k.public}] {
			s.close()
			delete(l.bound, k)
		}
	}
	l.want = want
	err := l.bindMissing()
	for k, s := range l.bound {
		if !want[k] {
			s.close()
			delete(l.bound, k)
			l.cfg.Log.Info("DNS listener closed", "addr", k.addr.String())
		}
	}
	return err
}

// bindMissing opens what is wanted and not there. The mutex is held.
func (l *Listeners) bindMissing() error {
	var errs []error
	l.errs = map[key]error{}
	for k := range l.want {
		if l.bound[k] != nil {
			continue
		}
		s, err := bind(l.ctx, k.addr)
		if err != nil {
			l.errs[k] = err
			errs = append(errs, err)
			continue
		}
		l.bound[k] = s
		l.cfg.Log.Info("DNS listener bound", "addr", k.addr.String(), "public", k.public)
		for range runtime.GOMAXPROCS(0) {
			l.wg.Go(func() { l.serveUDP(s.udp, k.public) })
		}
		l.wg.Go(func() { l.serveTCP(s.tcp, k.public) })
	}
	return errors.Join(errs...)
}

func (l *Listeners) retry() {
	t := time.NewTicker(retryEvery)
	defer t.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-t.C:
		}
		l.mu.Lock()
		if len(l.errs) > 0 && !l.closed {
			if err := l.bindMissing(); err != nil {
				l.cfg.Log.Warn("DNS listener not bound", log.Err(err))
			}
		}
		l.mu.Unlock()
	}
}

// States lists the listeners, in order of address.
func (l *Listeners) States() []State {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []State
	for k := range l.want {
		s := State{Addr: k.addr, Public: k.public, Bound: l.bound[k] != nil}
		if err := l.errs[k]; err != nil {
			s.Err = err.Error()
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b State) int { return a.Addr.Compare(b.Addr) })
	return out
}

// Close closes the sockets and waits for what is being answered, as long as ctx lets it.
func (l *Listeners) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	for k, s := range l.bound {
		s.close()
		delete(l.bound, k)
	}
	l.mu.Unlock()
	l.cancel()
	done := make(chan struct{})
	go func() { // ends when the readers do, and their sockets are closed
		l.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("DNS listeners: %w", ctx.Err())
	}
}

func (s *socket) close() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
}

// bind opens UDP and TCP on an address, without SO_REUSEPORT: a second server on it must fail, not
// silently take half of the queries. IP_FREEBIND, because at boot a bridge may come after us.
func bind(ctx context.Context, addr netip.AddrPort) (*socket, error) {
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var serr error
		err := c.Control(func(fd uintptr) {
			if addr.Addr().Is4() {
				serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) //nolint:gosec // a descriptor fits
			} else {
				serr = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1), //nolint:gosec // a descriptor fits
					unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)) //nolint:gosec // a descriptor fits
			}
		})
		return errors.Join(err, serr)
	}}
	v := "4"
	if addr.Addr().Is6() {
		v = "6"
	}
	pc, err := lc.ListenPacket(ctx, "udp"+v, addr.String())
	if err != nil {
		return nil, bindFault(addr, "UDP", err)
	}
	tl, err := lc.Listen(ctx, "tcp"+v, addr.String())
	if err != nil {
		_ = pc.Close()
		return nil, bindFault(addr, "TCP", err)
	}
	return &socket{udp: pc.(*net.UDPConn), tcp: tl.(*net.TCPListener)}, nil //nolint:forcetypeassert // what udp and tcp give
}

func bindFault(addr netip.AddrPort, proto string, err error) error {
	f := fault.New(fault.Precondition, "cannot listen for DNS on %s (%s)", addr, proto).Wrap(err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		f.WithReason("PORT_TAKEN").WithNext("see who has it: ss -lunp 'sport = %d'; then stop it or change [dns] listen", addr.Port())
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		f.WithReason("PORT_DENIED").WithNext("give the process CAP_NET_BIND_SERVICE, or use a port above 1023")
	}
	return f
}
