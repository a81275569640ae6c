// Package httpserver is the HTTP edge: TLS 1.3, limits on everything a client can send, the client's true
// address, one log line per request, and the same answer to every failure. It exists so that no service sets a
// timeout or believes a header on its own.
//
// The client's address is the TCP peer's, or what a PROXY header says when the peer is trusted and, with a hop
// key set, the header carries the key. X-Forwarded-* is never read. A request for a host that is not ours is
// answered 421.
//
//	ln, err := httpserver.Listen(ctx, ":8443", httpserver.Proxy{Trusted: trusted, Key: key}, logger)
//	srv := httpserver.New(httpserver.Config{Service: "mcns", Handler: router, GetCertificate: certs.GetCertificate})
//	err = srv.Serve(ctx, ln)
//
// There is no write timeout for the whole server, since it would cut live pages; routes set their own deadlines.
// mcdsl/grpcserver uses this package; a service rarely needs it directly.
package httpserver
