package httpserver

import "net/netip"

// Proxy says whose PROXY headers count.
type Proxy struct {
	Trusted []netip.Prefix // peers whose header is believed; from all others a header closes the connection
	Key     []byte         // 32-byte hop key; set = only a v2 header that carries it is believed
}
