// Package cmd holds the verbs of mcr's command line, one noun a file. They are clients: of the registry's gRPC
// for everything an administrator does, of /v2/ for moving images. Nothing is decided here.
package cmd
