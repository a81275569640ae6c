package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/fault"
)

// CheckKey refuses public keys that are too weak, or so large that checking them is an attack.
func CheckKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 4096 {
			return fault.Field1("csr", "an RSA key has 2048 to 4096 bits, this one %d", n)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return nil
		}
	}
	return fault.Field1("csr", "the key is of a kind that is not accepted: use P-256, P-384, P-521, Ed25519 or RSA")
}

// checkLeaf holds a parsed leaf against the rules of RFC 5280 that concern us, and verifies its chain.
func checkLeaf(root, issuer, leaf *x509.Certificate, spec LeafSpec, now time.Time) error {
	var errs []error
	bad := func(cond bool, format string, args ...any) {
		if cond {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(leaf.Version != 3, "version %d", leaf.Version)
	bad(leaf.SerialNumber.Sign() <= 0 || len(leaf.SerialNumber.Bytes()) > 20, "serial number (4.1.2.2)")
	bad(!leaf.NotBefore.Before(leaf.NotAfter), "validity (4.1.2.5)")
	bad(leaf.NotAfter.After(issuer.NotAfter), "outlives its issuer")
	bad(leaf.NotAfter.After(now.Add(spec.Profile.Life+time.Second)), "lives longer than its profile")
	bad(leaf.IsCA || !leaf.BasicConstraintsValid, "basic constraints (4.2.1.9)")
	bad(leaf.KeyUsage != x509.KeyUsageDigitalSignature, "key usage (4.2.1.3)")
	bad(len(leaf.ExtKeyUsage) != len(spec.Profile.Usages) || len(leaf.UnknownExtKeyUsage) > 0, "extended key usage (4.2.1.12)")
	bad(len(leaf.SubjectKeyId) == 0, "no subject key identifier")
	bad(!bytes.Equal(leaf.AuthorityKeyId, issuer.SubjectKeyId), "authority key identifier (4.2.1.1)")
	bad(!bytes.Equal(leaf.RawIssuer, issuer.RawSubject), "issuer name (4.1.2.4)")
	bad(leaf.Subject.String() != "", "subject is not empty")
	bad(len(leaf.DNSNames)+len(leaf.IPAddresses) != len(spec.Names), "names in SAN")
	bad(len(leaf.EmailAddresses)+len(leaf.URIs) != 0, "e-mail or URI in SAN")
	bad(len(leaf.UnhandledCriticalExtensions) > 0, "unknown critical extension")
	sanCritical := false
	for _, e := range leaf.Extensions {
		if e.Id.String() == "2.5.29.17" {
			sanCritical = e.Critical
		}
	}
	bad(!sanCritical, "SAN is not critical beside an empty subject (4.2.1.6)")
	bad(spec.Profile.NoRevAvail && len(leaf.CRLDistributionPoints)+len(leaf.OCSPServer) > 0, "noRevAvail beside a revocation URL (RFC 9608)")
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return VerifyChain(root, issuer, leaf, spec.Profile.Usages, now)
}

// VerifyChain verifies a leaf through its issuer to the root, name constraints included.
func VerifyChain(root, issuer, leaf *x509.Certificate, usages []x509.ExtKeyUsage, now time.Time) error {
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	inter.AddCert(issuer)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: now, KeyUsages: usages}); err != nil {
		return fmt.Errorf("verify chain: %w", err)
	}
	return nil
}
