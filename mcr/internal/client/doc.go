// Package client moves images between a registry of ours and archives, without docker. It exists because an
// operator's connection breaks: an upload goes on at the offset the server has, a download at the bytes that
// are there, and what the server holds already costs one HEAD.
//
// A Registry speaks the distribution specification to one host with one identity. Archives are read and
// written with go-containerregistry; every digest is checked before a byte counts.
//
// A Registry is safe for concurrent use.
package client
