package grpcserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/run"
)

const (
	maxSocketPath = 107             // of sun_path, with its terminating zero
	sniffTime     = 5 * time.Second // for the first bytes of a connection
	maxSniffing   = 64              // connections that have not said yet what they are
	nobodyUID     = 65534           // how an unmapped peer of a user namespace shows
)

// preface is how HTTP/2 with prior knowledge begins (RFC 9113, section 3.4): gRPC. HTTP/1 knows no such method.
var preface = []byte("PRI")

// SocketFor returns where a socket really is: at its path, or, if that is too long for the kernel, in a short
// folder named after it. Clients use it too.
func SocketFor(path string) string {
	if len(path) <= maxSocketPath {
		return path
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(os.TempDir(), "mc-"+hex.EncodeToString(sum[:8]), "s.sock")
}

// socket is a Unix listener that sorts its connections into gRPC and HTTP by their first bytes.
type socket struct {
	*net.UnixListener
	path string
	srv  *Server
	grpc *handed
	http *handed
	slot chan struct{} // one per connection being sniffed
	wg   sync.WaitGroup
}

func (s *Server) listenSocket(path string) (*socket, error) {
	path = SocketFor(path)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("socket folder: %w", err)
	}
	if err := ownedByUs(dir); err != nil && path != s.conf.Socket {
		return nil, err // the short folder lies where others can write
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The peer's uid decides, not the mode; the mode keeps the curious from even asking.
	if err := os.Chmod(path, 0o660); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("socket mode: %w", err)
	}
	return &socket{UnixListener: ln, path: path, srv: s, grpc: newHanded(ln.Addr()), http: newHanded(ln.Addr()),
		slot: make(chan struct{}, maxSniffing)}, nil
}

func ownedByUs(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("socket folder %s is not ours", dir)
	}
	return nil
}

// removeStale removes a socket nobody listens on. One that answers belongs to another server.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is there and is not a socket", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return fmt.Errorf("another server listens on %s", path)
	}
	return os.Remove(path)
}

// start accepts until the listener is closed.
func (k *socket) start(ctx context.Context) {
	k.wg.Go(func() {
		for {
			c, err := k.AcceptUnix()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				var te interface{ Temporary() bool }
				if errors.As(err, &te) && te.Temporary() { // out of file descriptors: come back
					time.Sleep(50 * time.Millisecond)
					continue
				}
				run.Fail(ctx, fmt.Errorf("socket %s: %w", k.path, err))
				return
			}
			caller, ok := k.srv.peer(c)
			if !ok {
				_ = c.Close()
				continue
			}
			k.slot <- struct{}{}
			k.wg.Go(func() {
				defer func() { <-k.slot }()
				k.sniff(&localConn{Conn: c, caller: caller})
			})
		}
	})
}

// sniff reads the first bytes and hands the connection to who speaks that language.
func (k *socket) sniff(c *localConn) {
	_ = c.SetReadDeadline(time.Now().Add(sniffTime))
	head := make([]byte, len(preface))
	if _, err := io.ReadFull(c.Conn, head); err != nil {
		_ = c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	c.head = head
	to := k.http
	if bytes.Equal(head, preface) {
		to = k.grpc
	}
	to.give(c)
}

// Close stops accepting, removes the socket and waits for connections that have not said what they are.
func (k *socket) Close() error {
	err := k.UnixListener.Close()
	_ = k.grpc.Close()
	_ = k.http.Close()
	k.wg.Wait()
	return err
}

// peer says who is at the other end, and whether they may speak at all.
func (s *Server) peer(c *net.UnixConn) (auth.Caller, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return auth.Caller{}, false
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || cerr != nil {
		return auth.Caller{}, false
	}
	caller, ok := s.localCaller(cred.Uid)
	if !ok {
		s.log.Warn("socket: peer refused", "uid", cred.Uid, "pid", cred.Pid)
	}
	return caller, ok
}

func (s *Server) localCaller(uid uint32) (auth.Caller, bool) {
	switch {
	case uid == 0:
		return auth.LocalRoot(0, "root"), true
	case slices.Contains(s.conf.LocalAdmins, uid):
		return auth.LocalRoot(uid, userName(uid)), true
	case uid == nobodyUID:
		return auth.Caller{}, false
	}
	if s.conf.Peer != nil {
		if c, ok := s.conf.Peer(uid); ok {
			return c, c.Known()
		}
	}
	if uid == uint32(os.Geteuid()) {
		return auth.LocalPeer(uid, s.conf.Service), true
	}
	return auth.Caller{}, false
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return "uid-" + id
}

// localConn is a connection of the socket: who is there, and the bytes already read.
type localConn struct {
	net.Conn
	caller auth.Caller
	head   []byte
}

// LocalCaller tells the HTTP edge who is there.
func (c *localConn) LocalCaller() auth.Caller { return c.caller }

// Read returns the sniffed bytes first.
func (c *localConn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// handed is a listener whose connections somebody else accepted.
type handed struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHanded(addr net.Addr) *handed {
	return &handed{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handed) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error { h.once.Do(func() { close(h.done) }); return nil }

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.addr }
