// Package upstream keeps what lives on the far side of the proxy: the backends of each route with their
// work in flight, their health and their connections, and the gate through which new work enters a route.
//
// A Work is one L4 connection or one L7 request. It enters the Gate of its route first (where a hold makes
// it wait) and is then bound to a Backend. In-flight counts from that choice, not from a successful dial,
// and a backend that drains refuses the choice under the same lock that counts it. So when a drain sees
// zero, nothing can still be on its way there.
//
// A Pool follows the routing table in two steps round the moment a new table is published: Prepare makes
// what the new table needs, Settle takes the old backends out of service.
//
// All types are safe for concurrent use.
package upstream
