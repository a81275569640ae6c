// Package oci is the registry's surface for container clients: the OCI distribution specification 1.1 below
// /v2/, as hand-written routes. It exists apart from the generated API because a decode, an encode and a hop
// per blob would be absurd; it passes the same verifier and rule map as everything else.
//
// The parts: path.go reads a path from the right; authorize.go asks policy and bounds it by the token;
// one file each for blobs, uploads, manifests, tags and referrers; errors.go writes every refusal, with the
// challenge that sends clients to the token realm.
//
// A request is authorised once, at its start. What a digest names is visible only through a repository that
// holds it, and the link is looked up before any file is touched.
//
// A Registry is safe for concurrent use.
package oci
