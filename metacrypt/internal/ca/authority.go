package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 5280 section 4.2.1.2 method 1: an identifier, not a protection
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// Lifetimes of authorities and lists.
const (
	RootLife            = 3652 * 24 * time.Hour // 10 years
	IssuerLife          = 730 * 24 * time.Hour
	BootstrapIssuerLife = 30 * 24 * time.Hour
	backdate            = time.Minute // clocks of clients run behind
)

// Authority is a certificate with its key.
type Authority struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// NewRoot makes a self-signed root: P-384, 10 years, without name constraints, which are not enforced on roots everywhere.
func NewRoot(name string, now time.Time) (Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return Authority{}, fmt.Errorf("generate root key: %w", err)
	}
	return NewRootFor(key, name, now)
}

// NewRootFor is NewRoot for an existing key.
func NewRootFor(key crypto.Signer, name string, now time.Time) (Authority, error) {
	ski, err := keyID(key.Public())
	if err != nil {
		return Authority{}, err
	}
	t := &x509.Certificate{
		SerialNumber: Serial(), Subject: pkix.Name{CommonName: name, Organization: []string{"Metacircular"}},
		NotBefore: now.Add(-backdate).UTC(), NotAfter: now.Add(RootLife).UTC(),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1, SubjectKeyId: ski,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
	return create(t, t, key, key)
}

// IssuerSpec describes an intermediate.
type IssuerSpec struct {
	Name   string
	Zones  []string       // DNS names below which it may sign; at least one
	Nets   []netip.Prefix // networks whose addresses it may sign; none = no address at all
	Life   time.Duration
	CRLURL string // where the root's list is; empty = none
	AIAURL string // where the root is; empty = none
}

// NewIssuer makes a P-256 intermediate under the root with critical name constraints.
func NewIssuer(root Authority, spec IssuerSpec, now time.Time) (Authority, error) {
	if len(spec.Zones) == 0 {
		return Authority{}, fmt.Errorf("an issuer needs at least one zone")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Authority{}, fmt.Errorf("generate issuer key: %w", err)
	}
	ski, err := keyID(key.Public())
	if err != nil {
		return Authority{}, err
	}
	t := &x509.Certificate{
		SerialNumber: Serial(), Subject: pkix.Name{CommonName: spec.Name, Organization: []string{"Metacircular"}},
		NotBefore: now.Add(-backdate).UTC(), NotAfter: earlier(now.Add(spec.Life), root.Cert.NotAfter).UTC(),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, SubjectKeyId: ski,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: spec.Zones, // RFC 5280: no leading dot
		CRLDistributionPoints: nonEmpty(spec.CRLURL), IssuingCertificateURL: nonEmpty(spec.AIAURL),
	}
	for _, p := range spec.Nets {
		t.PermittedIPRanges = append(t.PermittedIPRanges, ipNet(p))
	}
	if len(spec.Nets) == 0 { // otherwise "no address listed" would mean any address
		t.ExcludedIPRanges = []*net.IPNet{ipNet(netip.MustParsePrefix("0.0.0.0/0")), ipNet(netip.MustParsePrefix("::/0"))}
	}
	a, err := create(t, root.Cert, key, root.Key)
	if err != nil {
		return Authority{}, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root.Cert)
	if _, err := a.Cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return Authority{}, fmt.Errorf("new issuer does not verify: %w", err)
	}
	return a, nil
}

// create signs a template and parses the result.
func create(t, parent *x509.Certificate, key, signer crypto.Signer) (Authority, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		return Authority{}, fmt.Errorf("sign %s: %w", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Authority{}, fmt.Errorf("parse %s: %w", t.Subject.CommonName, err)
	}
	return Authority{Cert: cert, Key: key}, nil
}

// Serial returns a random positive number of 128 bits.
func Serial() *big.Int {
	var b [16]byte
	for {
		_, _ = rand.Read(b[:]) // never fails: it ends the process instead
		b[0] |= 0x40           // never short, never zero
		if n := new(big.Int).SetBytes(b[:]); n.Sign() > 0 {
			return n
		}
	}
}

// SerialText returns a serial number as lists and files show it: lower-case hex of whole bytes.
func SerialText(n *big.Int) string { return hex.EncodeToString(n.Bytes()) }

// keyID is the subject key identifier of RFC 5280 section 4.2.1.2, method 1.
func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Bits      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil, fmt.Errorf("decode public key: %w", err)
	}
	h := sha1.Sum(spki.Bits.Bytes) //nolint:gosec // see the import
	return h[:], nil
}

// Fingerprint is the SHA-256 of a certificate's DER in hex.
func Fingerprint(c *x509.Certificate) string {
	h := sha256.Sum256(c.Raw)
	return hex.EncodeToString(h[:])
}

// Zones returns the DNS zones an issuer may sign for.
func Zones(issuer *x509.Certificate) []string { return issuer.PermittedDNSDomains }

// Nets returns the networks an issuer may sign for.
func Nets(issuer *x509.Certificate) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range issuer.PermittedIPRanges {
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			ones, _ := n.Mask.Size()
			out = append(out, netip.PrefixFrom(a, ones))
		}
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
