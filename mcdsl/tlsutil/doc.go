// Package tlsutil holds certificates and roots that reload while the service runs. It exists because a
// certificate that expires unnoticed, a chain without its intermediate, or a reload that replaces a good
// certificate by half a file are the most common outages of small platforms.
//
//	roots, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: "ca.pem", Log: log})
//	cert, err := tlsutil.NewCertificate(tlsutil.Config{CertFile: c, KeyFile: k, Roots: roots, Log: log})
//	run.Group(ctx, opt, run.Background("certificates", cert.Watch), …)
//	ln = tls.NewListener(ln, cert.ServerConfig("h2", "http/1.1"))
//
// A certificate is taken only if its key fits, its chain leads to the platform's root with every
// intermediate in the file, and its names and usage fit; otherwise the old one stays and the failure is
// logged and counted. Absent or expired at the start is tolerated: the service lives, and handshakes fail or
// warn until the file is mended. Files are polled every ten seconds, because that survives renames and bind
// mounts where file notifications don't.
//
// TLS 1.3 only, key exchange left to Go (hybrid post-quantum on). Nothing here can skip a verification.
// All types are safe for concurrent use.
package tlsutil
