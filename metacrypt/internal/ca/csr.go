package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"net"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/ident"
)

// maxDER bounds a certificate or request that a caller sends.
const maxDER = 64 << 10

// Request is what we take from a certificate request: the key, whose possession it proves, and the names. Whatever else
// it asks for is ignored.
type Request struct {
	Key   crypto.PublicKey
	Names []ident.Name
	DER   []byte
}

// ParseRequest parses a request, PEM or DER, and checks its signature. The common name counts as one more name.
func ParseRequest(b []byte) (Request, error) {
	der, err := derOf(b, "CERTIFICATE REQUEST", "csr")
	if err != nil {
		return Request{}, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, fault.Field1("csr", "is no certificate request").Wrap(err)
	}
	if err := CheckKey(csr.PublicKey); err != nil {
		return Request{}, err
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, fault.Field1("csr", "is not signed by its own key").Wrap(err)
	}
	if len(csr.EmailAddresses)+len(csr.URIs) > 0 {
		return Request{}, fault.Field1("csr", "asks for an e-mail address or URI; only host names and addresses are signed")
	}
	names, err := namesOf(csr.DNSNames, csr.IPAddresses)
	if err != nil {
		return Request{}, err
	}
	if cn := csr.Subject.CommonName; cn != "" {
		n, err := ident.Parse(cn)
		if err != nil {
			return Request{}, fault.Field1("csr", "the common name is neither a host name nor an address: leave it out")
		}
		names = append(names, n)
	}
	names = ident.Unique(names)
	if len(names) == 0 {
		return Request{}, fault.Field1("csr", "names nothing: put the host name into the subject alternative name")
	}
	return Request{Key: csr.PublicKey, Names: names, DER: der}, nil
}

// Names returns a certificate's names in canonical form.
func Names(c *x509.Certificate) ([]ident.Name, error) {
	names, err := namesOf(c.DNSNames, c.IPAddresses)
	return ident.Unique(names), err
}

// ParseCertificate parses one certificate, PEM or DER. Of a PEM chain it takes the first.
func ParseCertificate(b []byte) (*x509.Certificate, error) {
	der, err := derOf(b, "CERTIFICATE", "certificate")
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fault.Field1("certificate", "is no certificate").Wrap(err)
	}
	return c, nil
}

// ParseKey parses a private key in PEM: PKCS #8 as we write it, SEC 1 or PKCS #1 as other tools do.
func ParseKey(b []byte) (crypto.Signer, error) {
	block, rest := pem.Decode(b)
	if block != nil && block.Type == "EC PARAMETERS" { // openssl puts them in front
		block, _ = pem.Decode(rest)
	}
	if block == nil {
		return nil, fault.Field1("key", "is no private key in PEM")
	}
	defer clear(block.Bytes)
	var k any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		k, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fault.Field1("key", "is PEM of another type than PRIVATE KEY")
	}
	if err != nil {
		return nil, fault.Field1("key", "is no private key that can be read")
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fault.Field1("key", "cannot sign")
	}
	return s, nil
}

// KeyPEM encodes a private key as PKCS #8 in PEM.
func KeyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// PEM encodes certificates, leaf first.
func PEM(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer does not fail
	}
	return b.Bytes()
}

func namesOf(dns []string, ips []net.IP) ([]ident.Name, error) {
	var out []ident.Name
	for _, d := range dns {
		n, err := ident.Parse(d)
		if err != nil || n.IsIP() {
			return nil, fault.Field1("csr", "has a DNS name that is none")
		}
		out = append(out, n)
	}
	for _, ip := range ips {
		n, err := ident.FromIP(ip)
		if err != nil {
			return nil, fault.Field1("csr", "has an address that is none")
		}
		out = append(out, n)
	}
	if len(out) > 100 {
		return nil, fault.Field1("csr", "has %d names, at most 100", len(out))
	}
	return out, nil
}

func derOf(b []byte, typ, field string) ([]byte, error) {
	if len(b) > maxDER {
		return nil, fault.Field1(field, "has %d bytes, at most %d", len(b), maxDER)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return b, nil
	}
	if block.Type != typ && block.Type != "NEW "+typ {
		return nil, fault.Field1(field, "is PEM of another type than %s", typ)
	}
	return block.Bytes, nil
}

// ParseChain parses PEM certificates, leaf first; at most ten.
func ParseChain(b []byte) ([]*x509.Certificate, error) {
	if len(b) > maxDER {
		return nil, fault.Field1("certificate", "has %d bytes, at most %d", len(b), maxDER)
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(out) == 10 {
			return nil, fault.Field1("certificate", "the file holds something else, or more than ten certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fault.Field1("certificate", "is no certificate").Wrap(err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fault.Field1("certificate", "the file holds no certificate in PEM")
	}
	return out, nil
}
