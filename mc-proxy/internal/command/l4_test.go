package command_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
)

// hashServer answers a stream with the bytes it was asked for, after it has read the client's to their end: each side
// closes its half as soon as it is done.
func (p *proxy) hashServer(name string) string {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: p.ca.Certificate(p.t, name)})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var want [8]byte
				if _, err := io.ReadFull(c, want[:]); err != nil {
					return
				}
				h := sha256.New()
				if _, err := io.Copy(h, c); err != nil { // until the client half-closes
					return
				}
				_, _ = c.Write(h.Sum(nil))
				_, _ = io.CopyN(c, &pattern{}, int64(binary.BigEndian.Uint64(want[:])))
				_ = c.(*tls.Conn).CloseWrite()
			}()
		}
	}()
	return ln.Addr().String()
}

// pattern is an endless stream that is the same for everybody.
type pattern struct{ n uint32 }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		p.n = p.n*1664525 + 1013904223
		b[i] = byte(p.n >> 24)
	}
	return len(b), nil
}

func TestL4StreamsAreIdentical(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.put(l4("l4.test", p.hashServer("l4.test")))
	for _, size := range []int{0, 1, 1000, 256 << 10, 1 << 20, 64 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c, err := tls.Dial("tcp", p.https, p.tlsConfig("l4.test"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var head [8]byte
			binary.BigEndian.PutUint64(head[:], uint64(size))
			up := make([]byte, size)
			_, _ = rand.Read(up)
			go func() {
				_, _ = c.Write(head[:])
				_, _ = c.Write(up)
				_ = c.CloseWrite()
			}()
			sum := make([]byte, sha256.Size)
			if _, err := io.ReadFull(c, sum); err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(up); !bytes.Equal(sum, want[:]) {
				t.Error("what the backend got differs")
			}
			got, want := sha256.New(), sha256.New()
			n, err := io.Copy(got, c)
			if err != nil || n != int64(size) {
				t.Fatalf("got %d bytes, %v, want %d", n, err, size)
			}
			_, _ = io.CopyN(want, &pattern{}, int64(size))
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Error("what the client got differs")
			}
		})
	}
}

func TestL4ManySegmentsOfTheHello(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	p.put(l4("seg.test", p.tlsBackend("seg.test", says("there"))))
	for _, size := range []int{1, 3, 100, 700} {
		raw, err := net.Dial("tcp", p.https)
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(&dribble{Conn: raw, size: size}, p.tlsConfig("seg.test", "http/1.1"))
		if err := c.Handshake(); err != nil {
			t.Fatalf("segments of %d: %v", size, err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
		if b, _ := io.ReadAll(c); !bytes.HasSuffix(b, []byte("there")) {
			t.Errorf("segments of %d: %q", size, b)
		}
		c.Close()
	}
}

// dribble writes in small segments.
type dribble struct {
	net.Conn
	size int
}

func (d *dribble) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		k := min(d.size, len(p))
		m, err := d.Conn.Write(p[:k])
		n += m
		if err != nil {
			return n, err
		}
		p = p[k:]
	}
	return n, nil
}

func TestUnknownNameGetsAlert(t *testing.T) {
	t.Parallel()
	p := newProxy(t, "").start()
	_, err := tls.Dial("tcp", p.https, p.tlsConfig("nobody.test"))
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("unrecognized name")) {
		t.Errorf("dial = %v, want the alert unrecognized_name", err)
	}
	raw, err := net.Dial("tcp", p.https)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_, _ = raw.Write([]byte("SSH-2.0-x\r\n"))
	if n, err := raw.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("other protocol: read %d, %v, want a reset", n, err)
	}
}
