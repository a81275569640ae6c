package httpserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/httpserver"
	"metacircular.net/mcdsl/mctest"
)

const name = "sample.mc.localhost"

func serve(t *testing.T, ca *mctest.CA, p httpserver.Proxy) string {
	t.Helper()
	ln, err := httpserver.Listen(t.Context(), "127.0.0.1:0", p, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := httpserver.New(httpserver.Config{Service: "sample", GetCertificate: ca.Certificate(t, name), HostNames: []string{name},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s", auth.Client(r.Context()), auth.RequestID(r.Context()))
		})})
	if err != nil {
		t.Fatal(err)
	}
	srv.Serve(t.Context(), ln)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := srv.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return ln.Addr().String()
}

// ask sends a header, then a request over TLS on the same connection.
func ask(t *testing.T, ca *mctest.CA, addr string, header []byte, extra ...string) (string, error) {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := raw.Write(header); err != nil {
		return "", err
	}
	tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		c := tls.Client(raw, &tls.Config{ServerName: name, RootCAs: ca.Pool(), MinVersion: tls.VersionTLS13})
		return c, c.Handshake()
	}}
	r, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+name+"/", nil)
	r.Header.Set("X-Forwarded-For", "6.6.6.6")
	r.Header.Set("Forwarded", "for=6.6.6.6")
	for i := 0; i < len(extra); i += 2 {
		r.Header.Set(extra[i], extra[i+1])
	}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func header(t *testing.T, version byte, src string, key []byte, keys int) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(src)), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443})
	if a := netip.MustParseAddrPort(src).Addr(); a.Is6() && !a.Is4In6() {
		h = proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(src)), &net.TCPAddr{IP: net.IPv6loopback, Port: 443})
	}
	if key != nil {
		var tlvs []proxyproto.TLV
		for range keys {
			tlvs = append(tlvs, proxyproto.TLV{Type: httpserver.HopKeyTLV, Value: key})
		}
		if err := h.SetTLVs(tlvs); err != nil {
			t.Fatal(err)
		}
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestProxy(t *testing.T) {
	t.Parallel()
	ca := mctest.NewCA(t)
	loop := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	key, wrong := bytes.Repeat([]byte{7}, httpserver.HopKeySize), bytes.Repeat([]byte{8}, httpserver.HopKeySize)
	stranger := serve(t, ca, httpserver.Proxy{})
	trusted := serve(t, ca, httpserver.Proxy{Trusted: loop})
	keyed := serve(t, ca, httpserver.Proxy{Trusted: loop, Key: key})
	const src = "203.0.113.9:4711"
	tests := []struct {
		name, addr string
		header     []byte
		want       string // client address, "" = connection closed
	}{
		{"stranger, none", stranger, nil, "127.0.0.1"},
		{"stranger, v1", stranger, header(t, 1, src, nil, 0), ""},
		{"stranger, v2", stranger, header(t, 2, src, nil, 0), ""},
		{"trusted, none", trusted, nil, "127.0.0.1"},
		{"trusted, v1", trusted, header(t, 1, src, nil, 0), "203.0.113.9"},
		{"trusted, v2", trusted, header(t, 2, src, nil, 0), "203.0.113.9"},
		{"trusted, v2 IPv6", trusted, header(t, 2, "[2001:db8::7]:9", nil, 0), "2001:db8::7"},
		{"trusted, unparsable v1", trusted, []byte("PROXY TCP4 garbage 127.0.0.1 1 2\r\n"), ""},
		{"trusted, unparsable v2", trusted, append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0xff, 0xff, 0, 0), ""},
		{"keyed, none", keyed, nil, "127.0.0.1"},
		{"keyed, v1", keyed, header(t, 1, src, nil, 0), ""},
		{"keyed, v2 without key", keyed, header(t, 2, src, nil, 0), ""},
		{"keyed, wrong key", keyed, header(t, 2, src, wrong, 1), ""},
		{"keyed, short key", keyed, header(t, 2, src, key[:31], 1), ""},
		{"keyed, key twice", keyed, header(t, 2, src, key, 2), ""},
		{"keyed, key", keyed, header(t, 2, src, key, 1), "203.0.113.9"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			body, err := ask(t, ca, tt.addr, tt.header, "X-Request-Id", "from-the-proxy-1")
			if tt.want == "" {
				if err == nil {
					t.Fatalf("answered %q, want the connection closed", body)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var client, id string
			if _, err := fmt.Sscan(body, &client, &id); err != nil || client != tt.want {
				t.Errorf("client = %q, want %s", body, tt.want)
			}
			if believed := id == "from-the-proxy-1"; believed != (tt.header != nil) {
				t.Errorf("request id %q believed = %v", id, believed)
			}
		})
	}
	if _, err := httpserver.Listen(t.Context(), "127.0.0.1:0", httpserver.Proxy{Key: key[:5]}, nil); err == nil {
		t.Error("a short hop key was accepted")
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nhello"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"))
	f.Add([]byte("\x16\x03\x01"))
	key := bytes.Repeat([]byte{7}, httpserver.HopKeySize)
	f.Fuzz(func(t *testing.T, data []byte) {
		ln := &pipeListener{conns: make(chan net.Conn, 1)}
		client, server := net.Pipe()
		ln.conns <- server
		c, err := httpserver.WithProxy(ln, httpserver.Proxy{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Key: key}, nil).Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = client.Write(data); _ = client.Close() }()
		_, _ = io.Copy(io.Discard, c)
		if got := httpserver.AddrOf(c.RemoteAddr()); got.IsValid() && got != netip.MustParseAddr("127.0.0.1") && !bytes.Contains(data, key) {
			t.Errorf("believed %s without the key", got)
		}
		_ = c.Close()
	})
}

type pipeListener struct{ conns chan net.Conn }

func (p *pipeListener) Accept() (net.Conn, error) { return fixedAddr{<-p.conns}, nil }
func (p *pipeListener) Close() error              { return nil }
func (p *pipeListener) Addr() net.Addr            { return &net.TCPAddr{} }

type fixedAddr struct{ net.Conn }

func (fixedAddr) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9} }
