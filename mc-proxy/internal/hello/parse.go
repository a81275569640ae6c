package hello

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// cursor walks over length-prefixed vectors; once short it stays short.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || len(c.b) < n {
		c.bad = true
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) u16() int {
	if b := c.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (c *cursor) u8() int {
	if b := c.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func malformed(what string) error { return fmt.Errorf("%w: %s", ErrMalformed, what) }

// parse reads the body of the message (RFC 8446 section 4.1.2).
func (r *Reader) parse(body []byte) error {
	c := cursor{b: body}
	c.take(2 + 32) // legacy_version, random
	if n := c.u8(); n > 32 {
		return malformed("session id")
	} else {
		c.take(n)
	}
	if n := c.u16(); n == 0 || n%2 != 0 {
		return malformed("cipher suites")
	} else {
		c.take(n)
	}
	if n := c.u8(); n == 0 {
		return malformed("compression methods")
	} else {
		c.take(n)
	}
	if c.bad {
		return malformed("cut short")
	}
	if len(c.b) == 0 {
		return nil // no extensions: an old client without a name
	}
	ext := cursor{b: c.take(c.u16())}
	if c.bad || len(c.b) != 0 {
		return malformed("extensions length")
	}
	return r.extensions(ext)
}

func (r *Reader) extensions(c cursor) error {
	// A bitmap of the low extension numbers finds duplicates without an allocation; the few high
	// ones (GREASE, private use) are kept in a list that lives on the stack.
	var low [128]bool
	var high [64]uint16
	nHigh := 0
	for len(c.b) > 0 {
		typ := c.u16()
		data := c.take(c.u16())
		if c.bad {
			return malformed("extension cut short")
		}
		if typ < len(low) {
			if low[typ] {
				return malformed("extension sent twice")
			}
			low[typ] = true
		} else {
			for _, t := range high[:nHigh] {
				if int(t) == typ {
					return malformed("extension sent twice")
				}
			}
			if nHigh == len(high) {
				return malformed("too many extensions")
			}
			high[nHigh] = uint16(typ)
			nHigh++
		}
		var err error
		switch typ {
		case extServerName:
			err = r.serverName(data)
		case extALPN:
			err = r.protocols(data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// serverName reads RFC 6066 section 3: one host_name at most.
func (r *Reader) serverName(data []byte) error {
	c := cursor{b: data}
	list := cursor{b: c.take(c.u16())}
	if c.bad || len(c.b) != 0 || len(list.b) == 0 {
		return malformed("server name list")
	}
	for len(list.b) > 0 {
		typ := list.u8()
		name := list.take(list.u16())
		if list.bad {
			return malformed("server name cut short")
		}
		if typ != 0 {
			continue
		}
		if r.sni {
			return malformed("two server names")
		}
		n, ok := normalise(name)
		if !ok {
			return malformed("server name is no host name")
		}
		r.sni, r.name = true, n
	}
	return nil
}

func (r *Reader) protocols(data []byte) error {
	c := cursor{b: data}
	list := c.take(c.u16())
	if c.bad || len(c.b) != 0 || len(list) == 0 {
		return malformed("protocol list")
	}
	p := cursor{b: list}
	for len(p.b) > 0 {
		if n := p.u8(); n == 0 {
			return malformed("empty protocol name")
		} else {
			p.take(n)
		}
		if p.bad {
			return malformed("protocol cut short")
		}
	}
	r.alpn = list
	return nil
}

// normalise lower-cases name in place, strips one trailing dot and accepts only letters, digits and
// hyphens in labels of 1-63 bytes, 253 bytes in all, that are not an address.
func normalise(name []byte) ([]byte, bool) {
	if n := len(name); n > 0 && name[n-1] == '.' {
		name = name[:n-1]
	}
	if len(name) == 0 || len(name) > 253 {
		return nil, false
	}
	label, letters := 0, false
	for i, ch := range name {
		switch {
		case ch >= 'A' && ch <= 'Z':
			name[i] = ch + 'a' - 'A'
			letters = true
		case ch >= 'a' && ch <= 'z', ch == '-':
			letters = true
		case ch >= '0' && ch <= '9':
		case ch == '.':
			if label == 0 {
				return nil, false
			}
			label = 0
			continue
		default:
			return nil, false
		}
		if label++; label > 63 {
			return nil, false
		}
	}
	if !letters {
		if _, err := netip.ParseAddr(string(name)); err == nil {
			return nil, false
		}
	}
	return name, true
}

// NormaliseName applies the rules for a server name to text: the form in which names are compared.
func NormaliseName(name string) (string, bool) {
	n, ok := normalise([]byte(name))
	return string(n), ok
}
