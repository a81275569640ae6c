package proxyhdr

import (
	"bufio"
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"

	proxyproto "github.com/pires/go-proxyproto"
)

const (
	v1Max  = 107     // with CRLF, the specification's bound
	v2Max  = 4 << 10 // ours; a header with TLVs is a few hundred bytes
	v2Head = 16
)

var (
	v1Sig = []byte("PROXY ")
	v2Sig = []byte{0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A}
)

// ErrBad means that the bytes are no PROXY header, or one we do not accept.
var ErrBad = errors.New("bad PROXY header")

// Length returns how long the header at the beginning of p is, 0 while more bytes are needed to know.
// The whole header is there once len(p) >= Length(p).
func Length(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case bytes.HasPrefix(v1Sig, p[:min(len(p), len(v1Sig))]):
		if i := bytes.IndexByte(p[:min(len(p), v1Max)], '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(p) >= v1Max {
			return 0, fmt.Errorf("%w: version 1 without an end", ErrBad)
		}
		return 0, nil
	case bytes.HasPrefix(v2Sig, p[:min(len(p), len(v2Sig))]):
		if len(p) < v2Head {
			return 0, nil
		}
		n := v2Head + int(binary.BigEndian.Uint16(p[14:]))
		if n > v2Max {
			return 0, fmt.Errorf("%w: %d bytes", ErrBad, n)
		}
		return n, nil
	}
	return 0, fmt.Errorf("%w: unknown signature", ErrBad)
}

// Source is what a header says.
type Source struct {
	Client netip.AddrPort // invalid: use the peer's address (LOCAL, UNKNOWN)
	Server netip.AddrPort
}

// Parse reads the header that is the whole of p. With a key only version 2 headers that carry it are
// accepted.
func Parse(p, key []byte) (Source, error) {
	if bytes.HasPrefix(p, v1Sig) {
		if key != nil {
			return Source{}, fmt.Errorf("%w: version 1 carries no hop key", ErrBad)
		}
		if bytes.Equal(p, []byte("PROXY UNKNOWN\r\n")) || bytes.HasPrefix(p, []byte("PROXY UNKNOWN ")) && bytes.HasSuffix(p, []byte("\r\n")) {
			return Source{}, nil
		}
	} else if err := checksum(p); err != nil {
		return Source{}, err
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(p), v2Max))
	if err != nil {
		return Source{}, fmt.Errorf("%w: %w", ErrBad, err)
	}
	if key != nil {
		if err := checkKey(h, key); err != nil {
			return Source{}, err
		}
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		return Source{}, nil
	}
	if h.TransportProtocol != proxyproto.TCPv4 && h.TransportProtocol != proxyproto.TCPv6 {
		return Source{}, fmt.Errorf("%w: not TCP", ErrBad)
	}
	src, dst := addrPort(h.SourceAddr), addrPort(h.DestinationAddr)
	if !src.IsValid() {
		return Source{}, fmt.Errorf("%w: no source address", ErrBad)
	}
	return Source{Client: src, Server: dst}, nil
}

func checkKey(h *proxyproto.Header, key []byte) error {
	tlvs, err := h.TLVs()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	for _, t := range tlvs {
		if t.Type == TypeHopKey && subtle.ConstantTimeCompare(t.Value, key) == 1 {
			return nil
		}
	}
	return fmt.Errorf("%w: without the hop key", ErrBad)
}

// checksum verifies the CRC32C TLV if there is one: over the header with the checksum itself zero.
func checksum(p []byte) error {
	if len(p) < v2Head {
		return fmt.Errorf("%w: cut short", ErrBad)
	}
	skip := 0
	switch p[13] >> 4 {
	case 1:
		skip = 12
	case 2:
		skip = 36
	case 3:
		skip = 216
	}
	for at := v2Head + skip; at+3 <= len(p); {
		n := int(binary.BigEndian.Uint16(p[at+1:]))
		if at+3+n > len(p) {
			return fmt.Errorf("%w: TLV cut short", ErrBad)
		}
		if p[at] == byte(proxyproto.PP2_TYPE_CRC32C) {
			if n != 4 {
				return fmt.Errorf("%w: checksum of %d bytes", ErrBad, n)
			}
			want := binary.BigEndian.Uint32(p[at+3:])
			c := bytes.Clone(p)
			clear(c[at+3 : at+7])
			if crc32.Checksum(c, crc32.MakeTable(crc32.Castagnoli)) != want {
				return fmt.Errorf("%w: checksum", ErrBad)
			}
		}
		at += 3 + n
	}
	return nil
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
