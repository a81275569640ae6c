// Package relay copies a byte stream between two TCP connections, both ways, without a wrapper that would keep
// the kernel from splicing.
//
// The first bytes of each direction go through a pooled buffer that is taken only once data is there, so that an
// idle connection holds no buffer and no pipe. What flows beyond that is bulk and is spliced by the kernel.
package relay

import (
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	bufferSize = 32 << 10
	// buffered is how much of a direction goes through a buffer before splice is worth its pipe.
	buffered = 256 << 10
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// Result is what went through.
type Result struct {
	Up, Down int64 // client to backend, backend to client
	Err      error // of the direction that failed first; nil after two orderly ends
}

// Run relays until both directions have ended. An end of one becomes a half-close of the other; an error resets
// both, so that a reset stays a reset. half is called when the first direction has ended in order.
func Run(client, backend *net.TCPConn, half func()) Result {
	var res Result
	var once, first sync.Once
	fail := func(err error) {
		once.Do(func() {
			res.Err = err
			for _, c := range []*net.TCPConn{client, backend} {
				_ = c.SetLinger(0)
				c.Close()
			}
		})
	}
	end := func(dst *net.TCPConn, err error) {
		if err == nil {
			err = dst.CloseWrite()
			if errors.Is(err, unix.ENOTCONN) {
				err = nil // the peer is gone already, and in order
			}
		}
		if err != nil {
			fail(err)
			return
		}
		first.Do(half)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		n, err := pump(client, backend)
		res.Down = n
		end(client, err)
	})
	n, err := pump(backend, client)
	res.Up = n
	end(backend, err)
	wg.Wait()
	client.Close()
	backend.Close()
	return res
}

// pump copies src to dst until src ends.
func pump(dst, src *net.TCPConn) (int64, error) {
	n, done, err := trickle(dst, src)
	if done || err != nil {
		return n, err
	}
	// Both are bare connections: ReadFrom splices.
	m, err := io.Copy(dst, src)
	return n + m, err
}

// trickle copies the beginning through pooled buffers; done means that src has ended.
func trickle(dst, src *net.TCPConn) (total int64, done bool, err error) {
	rc, err := src.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	for total < buffered {
		buf, n, err := readReady(rc)
		if n > 0 {
			_, werr := dst.Write((*buf)[:n])
			buffers.Put(buf)
			if werr != nil {
				return total, false, werr
			}
			total += int64(n)
			continue
		}
		if buf != nil {
			buffers.Put(buf)
		}
		if err != nil {
			return total, false, err
		}
		return total, true, nil
	}
	return total, false, nil
}

// readReady waits until src has data and reads it into a buffer taken only then.
func readReady(rc interface {
	Read(func(uintptr) bool) error
}) (buf *[]byte, n int, err error) {
	var rerr error
	err = rc.Read(func(fd uintptr) bool {
		b, _ := buffers.Get().(*[]byte)
		for {
			n, rerr = unix.Read(int(fd), *b)
			if !errors.Is(rerr, unix.EINTR) {
				break
			}
		}
		if errors.Is(rerr, unix.EAGAIN) {
			buffers.Put(b)
			return false
		}
		buf = b
		return true
	})
	if err == nil {
		err = rerr
	}
	if n < 0 {
		n = 0
	}
	return buf, n, err
}
