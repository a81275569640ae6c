// Package ingress accepts connections, reads what a client says first, and hands it to the route that is meant: as a
// bare stream (L4) or to the HTTP front (L7).
//
// Order for each connection: caps, PROXY header, limits per source, ClientHello, route, gate, backend. One absolute
// deadline from accept covers everything a client has to say before it is known; progress never extends it. What is
// refused costs the client a reset and us no more than the bytes read so far.
//
// A Server's listeners follow the configuration: Configure binds what is new before it lets go of what is old, and
// never touches a connection.
package ingress
