// Package token holds MCIAS's signing keys and makes platform tokens.
//
// There are two families of keys and they never mix. Platform keys (EdDSA) sign the tokens our services verify
// locally; OIDC keys (RS256) sign ID tokens for browsers and apps. A key goes next → active → retiring → gone, or
// compromised at once. Public halves are known while the vault is sealed, private ones only while it is open.
//
// [Keys] is safe for concurrent use.
package token
