package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/ident"
)

// Profile says what a leaf is for and how long it lives.
type Profile struct {
	Name       string
	Life       time.Duration
	Usages     []x509.ExtKeyUsage
	NoRevAvail bool // RFC 9608: so short that revoking is pointless; then there is no revocation URL either
}

// Profiles returns the built-in profiles.
func Profiles() []Profile {
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
	day := 24 * time.Hour
	return []Profile{
		{Name: "server", Life: 30 * day, Usages: []x509.ExtKeyUsage{server}},
		{Name: "shortlived", Life: 6 * day, Usages: []x509.ExtKeyUsage{server}, NoRevAvail: true},
		{Name: "client", Life: 30 * day, Usages: []x509.ExtKeyUsage{client}},
		{Name: "peer", Life: 30 * day, Usages: []x509.ExtKeyUsage{server, client}},
	}
}

// ProfileByName returns a profile; "" is server.
func ProfileByName(name string) (Profile, error) {
	if name == "" {
		name = "server"
	}
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
	}
	return Profile{}, fault.Field1("profile", "%q is not server, shortlived, client or peer", name)
}

// LeafSpec describes a leaf.
type LeafSpec struct {
	Profile Profile
	Names   []ident.Name
	Key     crypto.PublicKey
	Life    time.Duration // 0 = the profile's; never longer
	CRLURL  string        // of the issuer's list; empty = none
	AIAURL  string        // of the issuer's certificate; empty = none
}

var (
	oidNoRevAvail = asn1.ObjectIdentifier{2, 5, 29, 56}
	asn1Null      = []byte{5, 0}
)

// NewLeaf makes, checks and returns a leaf. A name outside the issuer's constraints is a Denied fault.
func NewLeaf(root *x509.Certificate, issuer Authority, spec LeafSpec, now time.Time) (*x509.Certificate, error) {
	if len(spec.Names) == 0 || len(spec.Names) > 100 {
		return nil, fault.Field1("identifiers", "there are %d names, from 1 to 100", len(spec.Names))
	}
	if err := CheckKey(spec.Key); err != nil {
		return nil, err
	}
	life := spec.Life
	if life <= 0 || life > spec.Profile.Life {
		life = spec.Profile.Life
	}
	ski, err := keyID(spec.Key)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: Serial(), Subject: pkix.Name{}, // empty, hence SAN is critical
		NotBefore: now.Add(-backdate).UTC(), NotAfter: earlier(now.Add(life), issuer.Cert.NotAfter).UTC(),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: spec.Profile.Usages, BasicConstraintsValid: true,
		SubjectKeyId: ski, IssuingCertificateURL: nonEmpty(spec.AIAURL),
	}
	if spec.Profile.NoRevAvail {
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidNoRevAvail, Value: asn1Null})
	} else {
		t.CRLDistributionPoints = nonEmpty(spec.CRLURL)
	}
	if !t.NotAfter.After(now) {
		return nil, fault.New(fault.Precondition, "the issuer %q has expired", issuer.Cert.Subject.CommonName).
			WithNext("metacrypt pki issuer create")
	}
	for _, n := range spec.Names {
		if !Permitted(issuer.Cert, n) {
			return nil, fault.New(fault.Denied, "%s is outside what the issuer may sign", n).WithReason("NAME_CONSTRAINTS").
				WithField("identifiers", "%s is not below %v", n, Zones(issuer.Cert))
		}
		if n.IsIP() {
			t.IPAddresses = append(t.IPAddresses, n.IP())
		} else {
			t.DNSNames = append(t.DNSNames, n.String())
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer.Cert, spec.Key, issuer.Key)
	if err != nil {
		return nil, fmt.Errorf("sign leaf: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse new leaf: %w", err)
	}
	if err := checkLeaf(root, issuer.Cert, leaf, spec, now); err != nil {
		return nil, fmt.Errorf("new leaf withheld: %w", err)
	}
	return leaf, nil
}

// Permitted reports whether the issuer's name constraints let it sign for the name.
func Permitted(issuer *x509.Certificate, n ident.Name) bool {
	if n.IsIP() {
		for _, p := range issuer.PermittedIPRanges {
			if p.Contains(n.IP()) {
				return true
			}
		}
		return false
	}
	for _, z := range issuer.PermittedDNSDomains {
		if n.Under(z) {
			return true
		}
	}
	return false
}
