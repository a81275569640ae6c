package hello

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxRaw bounds the bytes of a hello with its record framing. The cap is on raw bytes, not on the
// number of records: a browser's hello in tiny records is far over a hundred of them.
const MaxRaw = 64 << 10

const (
	recordHeader    = 5
	maxRecord       = 16384 // RFC 8446 section 5.1
	typeHandshake   = 22
	typeClientHello = 1
	extServerName   = 0
	extALPN         = 16
)

// Errors a Reader ends with. Anything that is neither is malformed and wraps ErrMalformed.
var (
	// ErrNotTLS means that the first byte is no TLS handshake record.
	ErrNotTLS = errors.New("not a TLS handshake")
	// ErrTooLarge means that no complete hello fitted into MaxRaw bytes.
	ErrTooLarge = errors.New("ClientHello larger than 64 KiB")
	// ErrMalformed means that the bytes break the grammar of RFC 8446 section 4.1.2.
	ErrMalformed = errors.New("malformed ClientHello")
)

// Reader gathers a ClientHello. The zero value is ready to use.
type Reader struct {
	raw  []byte // everything fed, for the one who gets the stream next
	hs   []byte // handshake bytes with the record framing taken off
	pos  int    // first byte of raw not looked at yet
	left int    // payload bytes of the current record still to come
	want int    // whole length of the handshake message, 0 while its header is incomplete
	done bool
	err  error

	name []byte // into hs, lower-cased there
	alpn []byte // the ProtocolNameList without its length, into hs
	sni  bool
}

// Reset makes the Reader ready for another connection and keeps its buffers.
func (r *Reader) Reset() {
	*r = Reader{raw: r.raw[:0], hs: r.hs[:0]}
}

// Feed takes the next bytes and reports whether the hello is complete. Bytes after the hello are kept
// in Raw as well. After an error or completion further calls change nothing.
func (r *Reader) Feed(p []byte) (bool, error) {
	if r.done || r.err != nil {
		return r.done, r.err
	}
	r.raw = append(r.raw, p...)
	for r.pos < len(r.raw) {
		if r.left == 0 {
			if ok := r.record(); !ok || r.err != nil {
				break
			}
			continue
		}
		n := min(r.left, len(r.raw)-r.pos)
		r.hs = append(r.hs, r.raw[r.pos:r.pos+n]...)
		r.pos += n
		r.left -= n
		if r.err = r.message(); r.err != nil || r.done {
			break
		}
	}
	if r.err == nil && !r.done && len(r.raw) >= MaxRaw {
		r.err = ErrTooLarge
	}
	return r.done, r.err
}

// record reads a record header; false means that more bytes are needed. The type is judged on the
// first byte alone, so that what is not TLS is refused at once.
func (r *Reader) record() bool {
	h := r.raw[r.pos:]
	if h[0] != typeHandshake {
		if r.pos == 0 {
			r.err = ErrNotTLS
		} else {
			r.err = fmt.Errorf("%w: record of type %d before the end", ErrMalformed, h[0])
		}
		return false
	}
	if len(h) > 1 && h[1] != 3 {
		if r.pos == 0 {
			r.err = ErrNotTLS
		} else {
			r.err = fmt.Errorf("%w: record version %d", ErrMalformed, h[1])
		}
		return false
	}
	if len(h) < recordHeader {
		return false
	}
	n := int(binary.BigEndian.Uint16(h[3:]))
	if n == 0 || n > maxRecord {
		r.err = fmt.Errorf("%w: record of %d bytes", ErrMalformed, n)
		return false
	}
	r.pos += recordHeader
	r.left = n
	return true
}

// message looks at the handshake bytes so far and parses them once they are complete.
func (r *Reader) message() error {
	if r.want == 0 {
		if r.hs[0] != typeClientHello {
			return fmt.Errorf("%w: handshake message of type %d", ErrMalformed, r.hs[0])
		}
		if len(r.hs) < 4 {
			return nil
		}
		r.want = 4 + int(r.hs[1])<<16 + int(r.hs[2])<<8 + int(r.hs[3])
		if r.want > MaxRaw {
			return ErrTooLarge
		}
	}
	if len(r.hs) < r.want {
		return nil
	}
	// RFC 8446 section 5.1 lets no other message share the record with a hello that ends a flight.
	if len(r.hs) > r.want || r.left > 0 {
		return fmt.Errorf("%w: bytes after the message", ErrMalformed)
	}
	if err := r.parse(r.hs[4:r.want]); err != nil {
		return err
	}
	r.done = true
	return nil
}

// Raw returns everything that was fed, framing included. It is valid until Reset.
func (r *Reader) Raw() []byte { return r.raw }

// Name returns the server name, lower-cased and without a trailing dot; empty without one.
// It is valid until Reset.
func (r *Reader) Name() []byte { return r.name }

// HasName reports whether the client sent a server name.
func (r *Reader) HasName() bool { return r.sni }

// ALPN returns the offered protocols in the client's order.
func (r *Reader) ALPN() []string {
	var out []string
	for rest := r.alpn; len(rest) > 0; {
		n := int(rest[0])
		out = append(out, string(rest[1:1+n]))
		rest = rest[1+n:]
	}
	return out
}

// Offers reports whether proto is among the offered protocols.
func (r *Reader) Offers(proto string) bool {
	for rest := r.alpn; len(rest) > 0; {
		n := int(rest[0])
		if string(rest[1:1+n]) == proto {
			return true
		}
		rest = rest[1+n:]
	}
	return false
}

// LooksLikeHTTP reports whether the fed bytes begin a cleartext HTTP/1 request: such a client deserves
// an answer it understands instead of a reset.
func LooksLikeHTTP(p []byte) bool {
	for _, m := range [...]string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH "} {
		if bytes.HasPrefix(p, []byte(m)) {
			return true
		}
	}
	return false
}
