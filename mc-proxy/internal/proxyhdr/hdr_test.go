package proxyhdr_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"metacircular.net/mc-proxy/internal/proxyhdr"
	"metacircular.net/mc-proxy/internal/route"
)

var key = bytes.Repeat([]byte{7}, proxyhdr.KeySize)

func facts(client string) proxyhdr.Facts {
	return proxyhdr.Facts{Client: netip.MustParseAddrPort(client), Server: netip.MustParseAddrPort("192.0.2.1:443"), Authority: "a.test", ALPN: "h2", UniqueID: "1-2"}
}

// gather finds the length as the bytes arrive one by one.
func gather(t *testing.T, p []byte) (int, error) {
	t.Helper()
	for i := 1; i <= len(p); i++ {
		n, err := proxyhdr.Length(p[:i])
		if err != nil || n > 0 && i >= n {
			return n, err
		}
	}
	return 0, nil
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, v := range []route.ProxyOut{route.ProxyV1, route.ProxyV2} {
		for _, client := range []string{"198.51.100.7:1234", "[2001:db8::7]:1234", "[::ffff:198.51.100.7]:1234"} {
			f := facts(client)
			h, err := proxyhdr.Header(v, f)
			if err != nil {
				t.Fatal(err)
			}
			n, err := gather(t, append(h, 22, 3, 1))
			if err != nil || n != len(h) {
				t.Fatalf("%s %s: Length = %d, %v, want %d", v, client, n, err, len(h))
			}
			src, err := proxyhdr.Parse(h, nil)
			want := netip.AddrPortFrom(f.Client.Addr().Unmap(), f.Client.Port())
			if err != nil || src.Client != want {
				t.Errorf("%s: Parse = %v, %v, want %v", v, src, err, want)
			}
		}
	}
}

func TestHopKey(t *testing.T) {
	t.Parallel()
	f := facts("198.51.100.7:1234")
	without, _ := proxyhdr.Header(route.ProxyV2, f)
	f.HopKey = key
	with, _ := proxyhdr.Header(route.ProxyV2, f)
	v1, _ := proxyhdr.Header(route.ProxyV1, f)
	wrong, _ := proxyhdr.Header(route.ProxyV2, proxyhdr.Facts{Client: f.Client, Server: f.Server, HopKey: bytes.Repeat([]byte{8}, 32)})
	local, _ := proxyhdr.Local(route.ProxyV2, key)
	if _, err := proxyhdr.Parse(with, key); err != nil {
		t.Errorf("with the key: %v", err)
	}
	if src, err := proxyhdr.Parse(local, key); err != nil || src.Client.IsValid() {
		t.Errorf("LOCAL with the key = %v, %v", src, err)
	}
	for name, h := range map[string][]byte{"without": without, "v1": v1, "wrong": wrong} {
		if _, err := proxyhdr.Parse(h, key); !errors.Is(err, proxyhdr.ErrBad) {
			t.Errorf("%s: Parse = %v, want ErrBad", name, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	good, _ := proxyhdr.Header(route.ProxyV2, facts("198.51.100.7:1234"))
	crc := append(bytes.Clone(good), 3, 0, 4, 1, 2, 3, 4)
	crc[15] += 7
	udp := bytes.Clone(good)
	udp[13] = 0x12
	for name, p := range map[string][]byte{
		"garbage":   []byte("GET / HTTP/1.1\r\n"),
		"endless":   append([]byte("PROXY TCP4 "), bytes.Repeat([]byte("1"), 200)...),
		"huge":      append(bytes.Clone(good[:14]), 0xff, 0xff),
		"crc":       crc,
		"udp":       udp,
		"v1 broken": []byte("PROXY TCP4 1.2.3.4 nowhere 1 2\r\n"),
	} {
		n, err := gather(t, p)
		if err == nil && n > 0 && n <= len(p) {
			_, err = proxyhdr.Parse(p[:n], nil)
		}
		if !errors.Is(err, proxyhdr.ErrBad) {
			t.Errorf("%s: %d, %v, want ErrBad", name, n, err)
		}
	}
	if src, err := proxyhdr.Parse([]byte("PROXY UNKNOWN\r\n"), nil); err != nil || src.Client.IsValid() {
		t.Errorf("UNKNOWN = %v, %v", src, err)
	}
}

func FuzzParse(f *testing.F) {
	v2, _ := proxyhdr.Header(route.ProxyV2, facts("198.51.100.7:1234"))
	f.Add(v2)
	f.Add([]byte("PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		n, err := proxyhdr.Length(p)
		if err != nil || n == 0 || n > len(p) {
			return
		}
		_, _ = proxyhdr.Parse(p[:n], nil)
		if src, err := proxyhdr.Parse(p[:n], key); err == nil && !bytes.Contains(p[:n], key) {
			t.Fatalf("accepted %v without the key", src)
		}
	})
}
