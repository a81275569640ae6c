package ca

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"

	"metacircular.net/mcdsl/fault"
)

// Lifetimes of revocation lists.
const (
	CRLLife     = 72 * time.Hour
	RootCRLLife = 180 * 24 * time.Hour
)

// Revoked is an entry of a list.
type Revoked struct {
	Serial *big.Int
	At     time.Time
	Reason int
}

// NewCRL makes a revocation list and checks its signature.
func NewCRL(issuer Authority, number uint64, entries []Revoked, now time.Time, life time.Duration) ([]byte, error) {
	t := &x509.RevocationList{
		Number: new(big.Int).SetUint64(number), ThisUpdate: now.Add(-backdate).UTC(), NextUpdate: now.Add(life).UTC(),
	}
	for _, e := range entries {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: e.Serial, RevocationTime: e.At.UTC(), ReasonCode: e.Reason})
	}
	der, err := x509.CreateRevocationList(rand.Reader, t, issuer.Cert, issuer.Key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("parse new revocation list: %w", err)
	}
	if err := crl.CheckSignatureFrom(issuer.Cert); err != nil {
		return nil, fmt.Errorf("new revocation list withheld: %w", err)
	}
	return der, nil
}

// reasons of RFC 5280 section 5.3.1 that a caller may give.
var reasons = map[string]int{"": 0, "unspecified": 0, "keyCompromise": 1, "affiliationChanged": 3, "superseded": 4,
	"cessationOfOperation": 5, "privilegeWithdrawn": 9}

// Reason returns the code of a reason.
func Reason(name string) (int, error) {
	code, ok := reasons[name]
	if !ok {
		return 0, fault.Field1("reason", "%q is not unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn", name)
	}
	return code, nil
}

// ReasonName is the inverse of Reason.
func ReasonName(code int) string {
	for n, c := range reasons {
		if c == code && n != "" {
			return n
		}
	}
	return "unspecified"
}
