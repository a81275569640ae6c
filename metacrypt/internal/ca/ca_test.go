package ca_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/ident"
)

type pair struct{ root, issuer ca.Authority }

func authorities(t testing.TB, nets ...netip.Prefix) pair {
	t.Helper()
	root, err := ca.NewRoot("Test root", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := ca.NewIssuer(root, ca.IssuerSpec{Name: "Test issuer", Zones: []string{"mc.localhost"}, Nets: nets, Life: ca.IssuerLife}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pair{root, issuer}
}

func (p pair) leaf(t testing.TB, profile string, names ...string) (*x509.Certificate, error) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	prof, err := ca.ProfileByName(profile)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ident.ParseAll(names)
	if err != nil {
		t.Fatal(err)
	}
	return ca.NewLeaf(p.root.Cert, p.issuer, ca.LeafSpec{Profile: prof, Names: ids, Key: key.Public(), CRLURL: "http://x/crl", AIAURL: "http://x/ca"}, time.Now())
}

func TestEveryProfileVerifiesWithOpenSSL(t *testing.T) {
	t.Parallel()
	p := authorities(t)
	dir := t.TempDir()
	for _, prof := range ca.Profiles() {
		leaf, err := p.leaf(t, prof.Name, "blog.mc.localhost", "*.apps.mc.localhost")
		if err != nil {
			t.Fatalf("%s: %v", prof.Name, err)
		}
		if prof.NoRevAvail != (len(leaf.CRLDistributionPoints) == 0) {
			t.Errorf("%s: revocation URLs %v", prof.Name, leaf.CRLDistributionPoints)
		}
		ok, out := verify(t, dir, p, leaf, nil)
		if !ok {
			t.Errorf("%s: %s", prof.Name, out)
		}
	}
}

func TestNamesOutsideTheConstraintsAreRefused(t *testing.T) {
	t.Parallel()
	p := authorities(t)
	for _, name := range []string{"evil.example", "evilmc.localhost", "localhost", "10.0.0.1", "::1", "mc.localhost.evil.example"} {
		if leaf, err := p.leaf(t, "server", "blog.mc.localhost", name); !fault.HasReason(err, "NAME_CONSTRAINTS") {
			t.Errorf("%s: %v, %v, want NAME_CONSTRAINTS", name, leaf, err)
		}
	}
	forced := force(t, p, &x509.Certificate{DNSNames: []string{"evil.example"}})
	if ok, _ := verify(t, t.TempDir(), p, forced, nil); ok {
		t.Error("openssl accepts a forced leaf outside the constraints")
	}
	forced = force(t, p, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}})
	if ok, _ := verify(t, t.TempDir(), p, forced, nil); ok {
		t.Error("openssl accepts a forced address although none is permitted")
	}
	q := authorities(t, netip.MustParsePrefix("10.0.0.0/8"))
	if _, err := q.leaf(t, "server", "10.1.2.3"); err != nil {
		t.Errorf("permitted address: %v", err)
	}
	if _, err := q.leaf(t, "server", "::ffff:11.1.2.3"); !fault.HasReason(err, "NAME_CONSTRAINTS") {
		t.Errorf("mapped address outside: %v", err)
	}
}

// force signs past our own checks, to see that others refuse.
func force(t *testing.T, p pair, tmpl *x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = big.NewInt(7), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	tmpl.KeyUsage, tmpl.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.issuer.Cert, key.Public(), p.issuer.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenSSLHonoursTheList(t *testing.T) {
	t.Parallel()
	p := authorities(t)
	good, err := p.leaf(t, "server", "a.mc.localhost")
	if err != nil {
		t.Fatal(err)
	}
	bad, err := p.leaf(t, "server", "b.mc.localhost")
	if err != nil {
		t.Fatal(err)
	}
	crl, err := ca.NewCRL(p.issuer, 5, []ca.Revoked{{Serial: bad.SerialNumber, At: time.Now(), Reason: 1}}, time.Now(), ca.CRLLife)
	if err != nil {
		t.Fatal(err)
	}
	if ok, out := verify(t, t.TempDir(), p, good, crl); !ok {
		t.Errorf("good leaf: %s", out)
	}
	if ok, _ := verify(t, t.TempDir(), p, bad, crl); ok {
		t.Error("openssl accepts the revoked leaf")
	}
}

func verify(t *testing.T, dir string, p pair, leaf *x509.Certificate, crl []byte) (bool, string) {
	t.Helper()
	bin, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	write := func(name string, b []byte) string {
		f := filepath.Join(dir, name)
		if err := os.WriteFile(f, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	args := []string{"verify", "-x509_strict", "-CAfile", write("root", ca.PEM(p.root.Cert)), "-untrusted", write("issuer", ca.PEM(p.issuer.Cert))}
	if crl != nil {
		out, err := exec.CommandContext(t.Context(), bin, "crl", "-inform", "DER", "-in", write("crl", crl), "-out", filepath.Join(dir, "crl.pem")).CombinedOutput()
		if err != nil {
			t.Fatalf("openssl crl: %s", out)
		}
		args = append(args, "-crl_check", "-CRLfile", filepath.Join(dir, "crl.pem"))
	}
	out, err := exec.CommandContext(t.Context(), bin, append(args, write("leaf", ca.PEM(leaf)))...).CombinedOutput()
	return err == nil, string(out)
}

func request(t testing.TB, key any, tmpl *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestRequests(t *testing.T) {
	t.Parallel()
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	small, _ := rsa.GenerateKey(rand.Reader, 1024)
	ok := &x509.CertificateRequest{DNSNames: []string{"A.mc.localhost."}}
	if r, err := ca.ParseRequest(request(t, ed, ok)); err != nil || len(r.Names) != 1 || r.Names[0].String() != "a.mc.localhost" {
		t.Errorf("ed25519 = %v, %v", r.Names, err)
	}
	cn := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "evil.example"}, DNSNames: []string{"a.mc.localhost"}}
	if r, err := ca.ParseRequest(request(t, p256, cn)); err != nil || len(r.Names) != 2 {
		t.Errorf("the common name is not one of the names: %v, %v", r.Names, err)
	}
	u, _ := url.Parse("spiffe://x/y")
	broken := request(t, p256, ok)
	broken[len(broken)-1] ^= 1
	for name, der := range map[string][]byte{
		"P-224": request(t, p224, ok), "RSA 1024": request(t, small, ok), "no name": request(t, p256, &x509.CertificateRequest{}),
		"common name": request(t, p256, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "Alice A."}}),
		"e-mail":      request(t, p256, &x509.CertificateRequest{DNSNames: ok.DNSNames, EmailAddresses: []string{"a@b"}}),
		"URI":         request(t, p256, &x509.CertificateRequest{DNSNames: ok.DNSNames, URIs: []*url.URL{u}}),
		"dns":         request(t, p256, &x509.CertificateRequest{DNSNames: []string{"a b"}}),
		"signature":   broken, "empty": {}, "garbage": []byte("hello"), "long": make([]byte, 100<<10),
	} {
		if _, err := ca.ParseRequest(der); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.Add(request(f, key, &x509.CertificateRequest{DNSNames: []string{"a.b"}}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = ca.ParseRequest(b)
		_, _ = ca.ParseCertificate(b)
		_, _ = ca.ParseChain(b)
	})
}
