// Package serve takes DNS messages from UDP and TCP and writes the replies.
//
// [Handler] knows what each kind of message gets (RFC 1035, 6891, 9619): our zones are answered at once
// from the current view; what is not ours goes to the forwarder, if listener and client allow it, on a
// bounded number of goroutines. [Listeners] owns the sockets: they can be exchanged while serving, a new
// one is open before an old one closes.
package serve
