// Package mint makes platform tokens: it turns a credential (session, service assertion, grant, presented token) into
// a subject, asks policy for each audience, and signs.
//
// Service identity, its kind and its tags come from the client record, the network from the connection or, on the
// back channel, from the session's last interactive request; never from a request. A mint needs no commit: mints are
// counted and written to audit once a minute.
//
// A [Minter] is safe for concurrent use.
package mint
