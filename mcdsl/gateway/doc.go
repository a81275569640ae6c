// Package gateway serves REST from the contract. It calls the server over its in-process connection, so that a
// REST call passes the same rule, token and audit as the gRPC call it stands for, and it turns off what the
// gateway runtime allows by default and we do not: method override, form bodies, unknown JSON fields, copied
// headers, clients' timeouts.
//
//	h, err := gateway.New(ctx, srv.InProcess(), mcnsv1.RegisterZoneServiceHandler)
//
// Things a client should know: 64-bit integers are JSON strings; names are those of the .proto (snake_case); a
// server stream comes as one JSON object a line, {"result":…}, and a failure after the first one is a last line
// {"error":…} under status 200.
package gateway
