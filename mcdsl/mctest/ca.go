package mctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"metacircular.net/mcdsl/tlsutil"
)

// CA is a root and an issuer below it, as the platform has them. Their files live in the test's folder.
type CA struct {
	Dir      string
	RootFile string // PEM of the root
	root     *x509.Certificate
	issuer   *x509.Certificate
	key      *ecdsa.PrivateKey // the issuer's
}

// NewCA returns a new authority.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{Dir: t.TempDir()}
	rootKey := newKey(t)
	root := template("Test root")
	root.IsCA, root.MaxPathLen, root.BasicConstraintsValid, root.KeyUsage = true, 1, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	ca.root = sign(t, root, root, &rootKey.PublicKey, rootKey)
	ca.key = newKey(t)
	issuer := template("Test issuer")
	issuer.IsCA, issuer.MaxPathLenZero, issuer.BasicConstraintsValid, issuer.KeyUsage = true, true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	ca.issuer = sign(t, issuer, ca.root, &ca.key.PublicKey, rootKey)
	ca.RootFile = filepath.Join(ca.Dir, "ca.pem")
	write(t, ca.RootFile, pemOf("CERTIFICATE", ca.root.Raw))
	return ca
}

// Pair is a certificate with its chain and its key, in files.
type Pair struct {
	CertFile, KeyFile string
	TLS               tls.Certificate
}

// Leaf issues a certificate for server and client use; names may be DNS names or addresses. It is valid for an
// hour unless changed.
func (ca *CA) Leaf(t testing.TB, names ...string) Pair {
	t.Helper()
	return ca.LeafUntil(t, time.Now().Add(time.Hour), names...)
}

// LeafUntil is Leaf with another end; one in the past makes an expired certificate.
func (ca *CA) LeafUntil(t testing.TB, until time.Time, names ...string) Pair {
	t.Helper()
	tmpl := template(names[0])
	tmpl.NotAfter = until
	if until.Before(tmpl.NotBefore) {
		tmpl.NotBefore = until.Add(-time.Hour)
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	key := newKey(t)
	leaf := sign(t, tmpl, ca.issuer, &key.PublicKey, ca.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("marshal key: %v", err)
	}
	dir, err := os.MkdirTemp(ca.Dir, "leaf-")
	if err != nil {
		t.Fatal(err)
	}
	p := Pair{CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")}
	chain := append(pemOf("CERTIFICATE", leaf.Raw), pemOf("CERTIFICATE", ca.issuer.Raw)...)
	write(t, p.CertFile, chain)
	write(t, p.KeyFile, pemOf("PRIVATE KEY", der))
	if p.TLS, err = tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
		t.Fatalf("load pair: %v", err)
	}
	return p
}

// Certificate returns the GetCertificate of a server for these names.
func (ca *CA) Certificate(t testing.TB, names ...string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	t.Helper()
	p := ca.Leaf(t, names...)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &p.TLS, nil }
}

// Roots returns the root as services hold it.
func (ca *CA) Roots(t testing.TB) *tlsutil.Roots {
	t.Helper()
	r, err := tlsutil.NewRoots(tlsutil.RootsConfig{File: ca.RootFile})
	if err != nil {
		t.Fatalf("roots: %v", err)
	}
	return r
}

// Pool returns the root as the standard library holds it.
func (ca *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.root)
	return p
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func template(cn string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: cn},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour)}
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, pub, priv any) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, priv)
	if err != nil {
		t.Fatalf("sign %s: %v", tmpl.Subject.CommonName, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
