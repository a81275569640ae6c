// Package oidc is the OpenID Connect surface for browsers and third-party apps: authorization code with S256 PKCE and
// nothing else, RS256 ID tokens, opaque access tokens, rotating refresh tokens.
//
// Everything not advertised is refused: other response types and modes, plain or missing PKCE, request objects,
// duplicate parameters, redirect URIs that differ by a byte. An unknown client or redirect URI is an error page, never
// a redirect. A code or refresh token used twice kills its grant and every token of it. The endpoints never emit a JWT
// access token, and platform tokens are of another family with other keys.
//
// The endpoints are written by hand on go-jose: the library that was considered needs more correcting than that
// (no PKCE method means plain there, any origin gets credentials, opaque tokens are ciphertext with a fallback to
// unauthenticated encryption, and RFC 9207 is missing).
//
// A [Provider] is safe for concurrent use. Pages are drawn by whoever implements [Pages].
package oidc
