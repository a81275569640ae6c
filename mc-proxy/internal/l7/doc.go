// Package l7 proxies HTTP on connections whose TLS the proxy has ended.
//
// A Front is an http.Server fed with handshaken connections of one listener. Each request looks its route up anew in
// the current table, enters the route's gate, is bound to a backend, and goes through one shared ReverseProxy. A
// failed dial takes the next backend while nothing of the request has been sent.
//
// FlushInterval stays 0: with an immediate flush the flush races the handler's return, and an answer of trailers
// alone loses its trailers. Streams are immediate all the same, because a response of unknown length and
// text/event-stream flush by themselves.
package l7
