package hello_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"testing"

	"metacircular.net/mc-proxy/internal/hello"
)

// capture returns the bytes a Go client sends first.
func capture(tb testing.TB, cfg *tls.Config) []byte {
	tb.Helper()
	a, b := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = tls.Client(a, cfg).HandshakeContext(ctx); a.Close() }()
	head := make([]byte, 5)
	if _, err := readFull(b, head); err != nil {
		tb.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := readFull(b, body); err != nil {
		tb.Fatal(err)
	}
	b.Close()
	return append(head, body...)
}

func readFull(c net.Conn, p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := c.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// fragment splits a one-record hello into records of size bytes.
func fragment(raw []byte, size int) []byte {
	var out []byte
	for chunk := range slices.Chunk(raw[5:], size) {
		out = append(out, 22, 3, 1, byte(len(chunk)>>8), byte(len(chunk)))
		out = append(out, chunk...)
	}
	return out
}

func classic(name string) *tls.Config {
	return &tls.Config{ServerName: name, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"h2", "http/1.1"}}
}

func TestReaderAnySegmentation(t *testing.T) {
	t.Parallel()
	pq := classic("A.Example.Test")
	pq.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	for name, cfg := range map[string]*tls.Config{"classic": classic("a.example.test"), "post-quantum": pq} {
		whole := capture(t, cfg)
		if name == "post-quantum" && len(whole) < 1400 {
			t.Fatalf("post-quantum hello has %d bytes, want over 1400", len(whole))
		}
		for _, record := range []int{16384, 512, 100, 7, 1} {
			raw := fragment(whole, record)
			for _, seg := range []int{len(raw), 1400, 536, 13, 1} {
				var r hello.Reader
				var done bool
				var err error
				for chunk := range slices.Chunk(raw, seg) {
					if done {
						t.Fatalf("%s record %d segment %d: done before the end", name, record, seg)
					}
					if done, err = r.Feed(chunk); err != nil {
						t.Fatalf("%s record %d segment %d: %v", name, record, seg, err)
					}
				}
				if !done || string(r.Name()) != "a.example.test" || !r.HasName() {
					t.Fatalf("%s record %d segment %d: done %v name %q", name, record, seg, done, r.Name())
				}
				if got := r.ALPN(); !slices.Equal(got, []string{"h2", "http/1.1"}) {
					t.Fatalf("ALPN = %q", got)
				}
				if !r.Offers("http/1.1") || r.Offers("http/1.0") {
					t.Fatal("Offers is wrong")
				}
				if !bytes.Equal(r.Raw(), raw) {
					t.Fatal("Raw differs from what was fed")
				}
			}
		}
	}
}

func TestReaderKeepsWhatFollows(t *testing.T) {
	t.Parallel()
	raw := append(capture(t, classic("a.test")), "early"...)
	var r hello.Reader
	if done, err := r.Feed(raw); !done || err != nil {
		t.Fatalf("Feed = %v, %v", done, err)
	}
	if !bytes.Equal(r.Raw(), raw) {
		t.Error("bytes after the hello were lost")
	}
}

func TestReaderNoName(t *testing.T) {
	t.Parallel()
	cfg := classic("192.0.2.1") // crypto/tls sends no name for an address
	var r hello.Reader
	if done, err := r.Feed(capture(t, cfg)); !done || err != nil || r.HasName() {
		t.Fatalf("Feed = %v, %v, HasName %v", done, err, r.HasName())
	}
}

func TestReaderRefuses(t *testing.T) {
	t.Parallel()
	good := capture(t, classic("a.test"))
	at := bytes.Index(good, []byte("a.test"))
	with := func(i int, b byte) []byte { c := bytes.Clone(good); c[i] = b; return c }
	huge := []byte{22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff}
	huge = append(huge, make([]byte, 16384-4)...)
	tiny := bytes.Repeat([]byte{22, 3, 1, 0, 1, 0}, 1)
	tiny[5] = 1
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"http":               {[]byte("GET / HTTP/1.1\r\n"), hello.ErrNotTLS},
		"sslv2":              {[]byte{0x80, 0x2e, 1, 0, 2}, hello.ErrNotTLS},
		"alert":              {[]byte{21, 3, 1, 0, 2, 1, 0}, hello.ErrNotTLS},
		"empty record":       {[]byte{22, 3, 1, 0, 0}, hello.ErrMalformed},
		"record too large":   {[]byte{22, 3, 1, 0x40, 1}, hello.ErrMalformed},
		"not a hello":        {with(5, 2), hello.ErrMalformed},
		"underscore":         {with(at, '_'), hello.ErrMalformed},
		"empty label":        {with(at, '.'), hello.ErrMalformed},
		"nul":                {with(at, 0), hello.ErrMalformed},
		"alert in between":   {append(fragment(good, 20)[:25], 21, 3, 1, 0, 2, 1, 0), hello.ErrMalformed},
		"declared too large": {append(huge, huge...), hello.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var r hello.Reader
			done, err := r.Feed(c.in)
			if done || !errors.Is(err, c.want) {
				t.Errorf("Feed = %v, %v, want %v", done, err, c.want)
			}
		})
	}
}

func TestReaderAllocatesNothing(t *testing.T) {
	raw := capture(t, classic("a.example.test"))
	var r hello.Reader
	_, _ = r.Feed(raw)
	if n := testing.AllocsPerRun(100, func() {
		r.Reset()
		if done, err := r.Feed(raw); !done || err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("allocations = %v, want 0", n)
	}
}

func FuzzReader(f *testing.F) {
	raw := capture(f, classic("a.example.test"))
	f.Add(raw, 7)
	f.Add(fragment(raw, 9), 1)
	f.Add([]byte{22, 3, 1, 0, 1, 1}, 1)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), 3)
	f.Fuzz(func(t *testing.T, in []byte, seg int) {
		if seg < 1 {
			seg = 1
		}
		var whole, parts hello.Reader
		d1, e1 := whole.Feed(in)
		var d2 bool
		var e2 error
		fed := 0
		for chunk := range slices.Chunk(in, seg) {
			if d2, e2 = parts.Feed(chunk); d2 || e2 != nil {
				break
			}
			fed += len(chunk)
		}
		// A cap on raw bytes may strike earlier in one way of feeding; everything else must agree.
		if d1 != d2 && len(in) < hello.MaxRaw {
			t.Fatalf("whole: %v %v, in parts of %d: %v %v", d1, e1, seg, d2, e2)
		}
		if d1 && d2 && (!bytes.Equal(whole.Name(), parts.Name()) || !slices.Equal(whole.ALPN(), parts.ALPN())) {
			t.Fatalf("name %q/%q", whole.Name(), parts.Name())
		}
		if d1 && !bytes.HasPrefix(in, whole.Raw()) {
			t.Fatal("raw is no prefix of the input")
		}
	})
}
