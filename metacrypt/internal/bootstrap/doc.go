// Package bootstrap makes a platform's first certificates without a server: the root, one name-constrained issuer that
// lives 30 days, and 14-day leaves for the services that start before the certificate authority does. It breaks the
// circle that the authority itself needs a certificate to be reached.
//
// Running it again completes what is missing, renews what is near its end, and never remakes an existing root. Files:
//
//	ca.pem       the root certificate            <service>.crt   leaf, then issuer (the full chain)
//	root.key     its key, gone after adopt       <service>.key   the leaf's key
//	issuer.pem   the bootstrap issuer            issuer.key      its key, gone after adopt
package bootstrap
