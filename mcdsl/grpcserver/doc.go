// Package grpcserver serves one set of implementations on three transports behind one chain of checks: gRPC and
// HTTPS over TLS, a Unix socket that carries both, and the process itself (for REST and pages). It exists so that
// a call reaches a handler only through exactly one rule, whichever way it came, and so that a server with a
// method nobody ruled does not start.
//
//	srv, err := grpcserver.New(grpcserver.Config{
//		Service:  "mcns",
//		Rules:    rules,
//		Verifier: verifier,
//		Register: func(r grpc.ServiceRegistrar) { mcnsv1.RegisterZoneServiceServer(r, zones) },
//		REST:     []gateway.Register{mcnsv1.RegisterZoneServiceHandler},
//		HTTPAddr: ":8443", GRPCAddr: ":9443", Socket: "/run/mc/mcns.sock",
//		GetCertificate: certs.GetCertificate,
//	})
//	run.Component{Name: "server", Start: srv.Start, Stop: srv.Stop}
//
// New checks the rules against what is registered, in both directions, and returns every gap. Start listens and
// returns; Stop drains: it ends open streams with Unavailable, DRAINING, lets calls finish, and closes.
//
// Methods of a Server: Start, Stop, InProcess (the connection for REST, pages and the service's own use),
// HTTPAddr, GRPCAddr and SocketPath (as bound), Drain.
//
// The chain: recover, request id, log and metrics, drain gate, deadline, rule, token, budget, access, step-up,
// sealed gate, audit, the service's own, handler. Handlers return errors of mcdsl/fault; the chain turns them
// into a gRPC status once, and logs the cause of internal ones.
//
// It does not load certificates (mcdsl/tlsutil does) and does not draw pages (mcdsl/web does).
package grpcserver
