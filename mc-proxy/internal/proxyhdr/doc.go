// Package proxyhdr speaks the PROXY protocol at both ends of a hop.
//
// The grammar is go-proxyproto's; this package adds what a hop needs round it: gathering a header that
// arrives in pieces, within a bound, without consuming what follows; the hop key, a 32-byte secret in TLV
// 0xE4 by which a receiver knows that the header came from the node's own proxy and not from an app that
// shares its address; and the checksum, verified when present. The library's Listener and Conn are not used:
// a wrapper round the connection would cost splice.
package proxyhdr
