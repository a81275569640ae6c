// Package pki gets certificates for route hosts from Metacrypt and keeps them fresh in MC-Proxy's folder: the deploy
// package's Issuer. Keys are made here and never leave the node; renewal is by proof of the old key, without any login.
package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"google.golang.org/grpc"

	metacryptv1 "metacircular.net/metacrypt/api/metacrypt/v1"
)

// Config says where certificates go.
type Config struct {
	Dir   string // MC-Proxy's certificate folder
	Owner int    // its UID, -1 to leave it
	Mount string // the pki engine's
	Root  string // the platform's root, PEM
	Now   func() time.Time
}

// Client is a deploy.Issuer. Safe for concurrent use for different hosts.
type Client struct {
	cfg Config
	pki metacryptv1.PKIClient
}

// New uses a connection to Metacrypt under the node's account.
func New(conn grpc.ClientConnInterface, cfg Config) *Client {
	return &Client{cfg: cfg, pki: metacryptv1.NewPKIClient(conn)}
}

var hostPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

func (c *Client) files(host string) (cert, key string, err error) {
	if !hostPattern.MatchString(host) {
		return "", "", fmt.Errorf("%q is not a host name", host)
	}
	return filepath.Join(c.cfg.Dir, host+".pem"), filepath.Join(c.cfg.Dir, host+".key"), nil
}

// Leaf returns the certificate kept for a host, nil when there is none that fits.
func (c *Client) Leaf(host string) *x509.Certificate {
	cert, key, err := c.files(host)
	if err != nil {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil || pair.Leaf.VerifyHostname(host) != nil {
		return nil
	}
	return pair.Leaf
}

// Ensure keeps what is good for another third of its life, else asks for a new one.
func (c *Client) Ensure(ctx context.Context, host string) (string, error) {
	if leaf := c.Leaf(host); leaf != nil && leaf.NotAfter.Sub(c.cfg.Now()) > leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return host, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{host}}, key)
	if err != nil {
		return "", fmt.Errorf("make a certificate request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	resp, err := c.pki.SignCSR(ctx, &metacryptv1.SignCSRRequest{Mount: c.cfg.Mount, Csr: csr, Profile: "server"})
	if err != nil {
		return "", err
	}
	if err := c.check(host, resp.GetChainPem()); err != nil {
		return "", fmt.Errorf("metacrypt's certificate is refused: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode a key: %w", err)
	}
	certFile, keyFile, err := c.files(host)
	if err != nil {
		return "", err
	}
	if err := c.write(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return "", err
	}
	return host, c.write(certFile, []byte(resp.GetChainPem()))
}

// check verifies a full chain to the root before it is delivered: a leaf alone fails in browsers without a log line.
func (c *Client) check(host, chain string) error {
	rootPEM, err := os.ReadFile(c.cfg.Root)
	if err != nil {
		return err
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(rootPEM) {
		return errors.New("the platform's root cannot be read")
	}
	var leaf *x509.Certificate
	for rest := []byte(chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		if leaf == nil {
			leaf = cert
		} else {
			inter.AddCert(cert)
		}
	}
	if leaf == nil {
		return errors.New("it holds no certificate")
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: inter, CurrentTime: c.cfg.Now()})
	return err
}

func (c *Client) write(path string, data []byte) error {
	tmp, err := os.CreateTemp(c.cfg.Dir, ".new-*")
	if err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil && c.cfg.Owner >= 0 {
		err = tmp.Chown(c.cfg.Owner, c.cfg.Owner)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	d, err := os.Open(c.cfg.Dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Drop revokes and removes a host's certificate. A Metacrypt that cannot be asked does not keep an undeployment from
// ending: the leaf dies by itself within 30 days, and its key is gone from here now.
func (c *Client) Drop(ctx context.Context, host string) error {
	if leaf := c.Leaf(host); leaf != nil {
		rctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, _ = c.pki.Revoke(rctx, &metacryptv1.RevokeRequest{Mount: c.cfg.Mount, Serial: fmt.Sprintf("%x", leaf.SerialNumber), Reason: "cessationOfOperation"})
		cancel()
	}
	certFile, keyFile, err := c.files(host)
	if err != nil {
		return err
	}
	for _, f := range []string{certFile, keyFile} {
		if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove certificate: %w", err)
		}
	}
	return nil
}
