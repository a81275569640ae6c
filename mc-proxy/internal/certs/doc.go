// Package certs holds the certificates that L7 routes serve, read from files inside one folder.
//
// It is not mcdsl/tlsutil's Certificate, which insists on the platform's root and on a pair of files: a route
// may serve a certificate of any authority, its files are named by whoever may write routes (so they are opened
// through os.Root and cannot leave the folder), and one PEM file may hold key and chain together.
//
// A Cert once loaded is served until a better one is there: a file that turns bad keeps the old one and shows
// its fault. Files are looked at every five seconds, at a reload, and when a route begins to use them. Store is
// safe for concurrent use; handshakes only load a pointer.
package certs
