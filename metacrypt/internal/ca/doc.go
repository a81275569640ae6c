// Package ca makes certificates: root, name-constrained issuers, leaves by profile, revocation lists. It is pure: keys
// come in, DER goes out, and nothing is stored. The engine and the offline bootstrap both use it, so there is one code
// path for every certificate of the platform.
//
// x509.CreateCertificate enforces neither name constraints nor profiles, so each new certificate is parsed again,
// checked against the rules of RFC 5280 that matter here, and its chain is verified, before anybody sees it.
package ca
