// Package pki is the certificate authority as an engine: keys in the barrier, certificates in a table, every one of them
// recorded before it leaves. What is public (root, issuers, revocation lists) is read by [Public], which needs no open
// barrier, so it is served while sealed too.
package pki
