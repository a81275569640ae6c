// Package store keeps the routing table on disk: in SQLite, and beside it as a checksummed file from which the proxy
// serves read-only when the database cannot be used. One function per query; no decision is made here.
package store
