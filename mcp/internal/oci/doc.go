// Package oci keeps images on the node: a content-addressed store of blobs, with names that point to manifests.
//
// The agent pulls and pushes itself, over the platform's trust, host map and tokens, and checks every digest before an
// engine sees a byte. So an engine needs no registry login, no trust store and no DNS, and a node can start its core
// with nothing else reachable.
//
// A Store is safe for concurrent use, also by several processes: blobs are renamed into place under their own hash.
package oci
