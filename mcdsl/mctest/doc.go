// Package mctest is what the tests of every service need: a certificate authority, a fake MCIAS on the real
// contract, the role matrix, a crash loop, a secret canary, golden files. It is imported by tests only.
//
//	func TestZones(t *testing.T) {
//		ca := mctest.NewCA(t)
//		idp := mctest.NewMCIAS(t, ca)
//		srv := start(t, idp.Verifier(t, "mcns"), ca)
//		token := idp.Token(mctest.Human("alice", "user").For("mcns"))
//		…
//		idp.RevokeToken(token) // and the next call is refused
//	}
//
// The fake mints, revokes, seals, pauses, loses its memory and lies about the time as told; it has no accounts
// beyond those that a test names, and no policy unless a test sets one.
package mctest
