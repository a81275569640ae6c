// Package ident gives every name in a certificate one canonical form and matches it against patterns.
//
// An identifier is a DNS name (lower case, A-labels, no trailing dot), a wildcard name "*.x", or an IP address
// (RFC 5952, IPv4-mapped unmapped). Whatever compares two names compares canonical ones; a spelling is never an escape.
//
// A pattern is an exact name; "*.x" for exactly one label below x; "**.x" for any depth below x; "wildcard:*.x" for the
// wildcard name itself, which no other pattern matches; an address; or a CIDR. Reserved names are the platform's own;
// a pattern that allows matches them only where it spells them out.
package ident
