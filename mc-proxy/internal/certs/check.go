package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// Info says what a certificate is.
type Info struct {
	Names       []string
	NotBefore   time.Time
	NotAfter    time.Time
	Fingerprint string // SHA-256 of the leaf, hex
}

// parse makes a pair from PEM bytes; keyPEM may be the same file as certPEM.
func parse(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	// A combined file may hold the key first; X509KeyPair wants the blocks apart.
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	if c.Leaf == nil {
		if c.Leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, fmt.Errorf("leaf: %w", err)
		}
	}
	return &c, nil
}

func infoOf(c *tls.Certificate) Info {
	sum := sha256.Sum256(c.Certificate[0])
	i := Info{NotBefore: c.Leaf.NotBefore, NotAfter: c.Leaf.NotAfter, Fingerprint: hex.EncodeToString(sum[:])}
	i.Names = append(i.Names, c.Leaf.DNSNames...)
	for _, ip := range c.Leaf.IPAddresses {
		i.Names = append(i.Names, ip.String())
	}
	return i
}

// problems judges a pair for a host name: what a browser would stumble over. An empty hostname, and the special
// ones, are not compared with the names of the leaf.
func problems(c *tls.Certificate, hostname string, roots *x509.CertPool, now time.Time) []string {
	var out []string
	leaf := c.Leaf
	if now.After(leaf.NotAfter) {
		out = append(out, "expired on "+leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if now.Before(leaf.NotBefore) {
		out = append(out, "not valid before "+leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if hostname != "" && !strings.HasPrefix(hostname, "@") && !covers(leaf, hostname) {
		out = append(out, fmt.Sprintf("good for %s, not for %s", strings.Join(infoOf(c).Names, ", "), hostname))
	}
	chain := make([]*x509.Certificate, 0, len(c.Certificate))
	for _, der := range c.Certificate {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return append(out, "the file holds a block that is no certificate")
		}
		chain = append(chain, x)
	}
	for i := 1; i < len(chain); i++ {
		if err := chain[i-1].CheckSignatureFrom(chain[i]); err != nil {
			out = append(out, fmt.Sprintf("certificate %d of the file is not signed by the next one", i))
			break
		}
	}
	if len(chain) == 1 && !signedByRoot(leaf, roots, now) {
		out = append(out, "the file holds the leaf alone; append the intermediate certificates")
	}
	return out
}

// signedByRoot reports whether a root we know signed the leaf itself. The time is set inside the leaf's life, so
// that an expired leaf is not called incomplete as well.
func signedByRoot(leaf *x509.Certificate, roots *x509.CertPool, now time.Time) bool {
	if bytes.Equal(leaf.RawIssuer, leaf.RawSubject) && leaf.CheckSignatureFrom(leaf) == nil {
		return true // self-signed: there is nothing to append
	}
	if roots == nil {
		return false
	}
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		now = leaf.NotBefore
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// covers reports whether leaf is good for a host name; for *.suffix it must hold that very wildcard, or at
// least one name below the suffix (the others are refused one by one).
func covers(leaf *x509.Certificate, hostname string) bool {
	suffix, wild := strings.CutPrefix(hostname, "*")
	if !wild {
		return leaf.VerifyHostname(hostname) == nil
	}
	for _, n := range leaf.DNSNames {
		if strings.HasSuffix(strings.ToLower(n), suffix) {
			return true
		}
	}
	return false
}

// split separates a combined PEM into certificates and key.
func split(data []byte) (certPEM, keyPEM []byte) {
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return certPEM, keyPEM
		}
		if b.Type == "CERTIFICATE" {
			certPEM = append(certPEM, pem.EncodeToMemory(b)...)
		} else {
			keyPEM = append(keyPEM, pem.EncodeToMemory(b)...)
		}
	}
}
