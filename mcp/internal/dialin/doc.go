// Package dialin is the connection between an agent and the master, from both ends.
//
// The agent dials the master (TLS 1.3, the node's certificate, ALPN mc-agent/1); then the roles turn: the agent serves
// gRPC on that connection and the master is the client. So a node behind NAT works, and no port that equals root listens
// anywhere. Dialer is the agent's end, Connect makes the master's end of an accepted connection.
//
// What the master calls under its own identity, which the TLS connection proves, is NodeLocal and nothing else. Every
// other call carries a token for the audience mcp/<node> that the master exchanged at MCIAS for its caller's; it is
// passed on, as bytes, to the agent's own server in this process, whose rules and verifier judge it like any other call.
// No other metadata is passed on but the request id.
package dialin

// ALPN is the application protocol of the connection.
const ALPN = "mc-agent/1"

// NodeName is the name in a node's certificate.
func NodeName(node, domain string) string { return node + ".node." + domain }
