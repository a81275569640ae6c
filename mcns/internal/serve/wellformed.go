package serve

import "encoding/binary"

// maxName is the longest name on the wire, length octets included (RFC 1035 section 3.1).
const maxName = 255

// wellFormed walks a message and reports whether its counts fit its bytes exactly. The library is
// lenient here: it takes a message that ends early, or goes on, for a good one.
func wellFormed(pkt []byte) bool {
	off := 12
	for i := binary.BigEndian.Uint16(pkt[4:]); i > 0; i-- {
		if off = skipName(pkt, off, false); off < 0 || off+4 > len(pkt) {
			return false
		}
		off += 4
	}
	records := int(binary.BigEndian.Uint16(pkt[6:])) + int(binary.BigEndian.Uint16(pkt[8:])) + int(binary.BigEndian.Uint16(pkt[10:]))
	for range records {
		if off = skipName(pkt, off, true); off < 0 || off+10 > len(pkt) {
			return false
		}
		off += 10 + int(binary.BigEndian.Uint16(pkt[off+8:]))
		if off > len(pkt) {
			return false
		}
	}
	return off == len(pkt)
}

// skipName returns the offset after a name, -1 if it is none. A question has no pointers: there is nothing
// before it to point to.
func skipName(pkt []byte, off int, pointers bool) int {
	for total := 1; ; {
		if off >= len(pkt) {
			return -1
		}
		n := int(pkt[off])
		switch {
		case n == 0:
			return off + 1
		case n&0xc0 == 0xc0:
			if !pointers || off+2 > len(pkt) {
				return -1
			}
			return off + 2
		case n&0xc0 != 0:
			return -1
		}
		if total += n + 1; total > maxName {
			return -1
		}
		off += n + 1
	}
}
