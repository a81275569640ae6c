// Package hello reads a TLS ClientHello out of the first bytes of a connection without consuming them.
//
// It exists because the proxy must know the name a client asks for before it knows whether it will
// end TLS itself, and because the bytes must afterwards go on untouched. A Reader is fed whatever
// arrived, in pieces of any size, over any number of TLS records; it does no I/O, sets no deadline,
// and in the common case allocates nothing but its buffers, which Reset keeps.
//
//	var r hello.Reader
//	for {
//		n, err := conn.Read(buf)
//		done, err := r.Feed(buf[:n])   // done: r.Name, r.ALPN, r.Raw are valid
//	}
//
// A Reader is not safe for concurrent use. It deliberately does not judge whether a handshake would
// succeed: versions, cipher suites and key shares are the business of whoever ends TLS.
package hello
