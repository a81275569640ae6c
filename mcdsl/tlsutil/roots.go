package tlsutil

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"metacircular.net/mcdsl/log"
)

// Dialer opens connections; net.Dialer and hostmap.Map have this method's shape.
type Dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// RootsConfig says which roots to trust.
type RootsConfig struct {
	File string // PEM, one or more CA certificates
	Log  *slog.Logger
}

// Roots are the platform's trust anchors; they reload. The system's roots are never part of them.
type Roots struct {
	file string
	log  *slog.Logger
	pool atomic.Pointer[x509.CertPool]

	mu   sync.Mutex // guards seen
	seen []byte
}

// NewRoots loads the file. An absent file is no error here: nothing is trusted until it comes. A file without a
// CA certificate is one.
func NewRoots(cfg RootsConfig) (*Roots, error) {
	if cfg.File == "" {
		return nil, errors.New("roots: no ca_cert set")
	}
	r := &Roots{file: cfg.File, log: log.Or(cfg.Log)}
	// An empty pool, never nil: crypto/tls takes nil for the system's roots.
	r.pool.Store(x509.NewCertPool())
	err := r.Reload()
	if errors.Is(err, os.ErrNotExist) {
		r.log.Error("root certificate not there yet: no peer can be verified", "file", cfg.File)
		return r, nil
	}
	return r, err
}

// File returns where the roots come from.
func (r *Roots) File() string { return r.file }

// Pool returns the present roots, never nil. Ask for each dial: the next one may differ.
func (r *Roots) Pool() *x509.CertPool { return r.pool.Load() }

// Reload reads the file now; a failure keeps what is trusted.
func (r *Roots) Reload() error {
	data, err := os.ReadFile(r.file)
	if err != nil {
		return fmt.Errorf("read roots: %w", err)
	}
	pool, err := parseRoots(data)
	if err != nil {
		return fmt.Errorf("roots %s: %w", r.file, err)
	}
	r.mu.Lock()
	r.seen = data
	r.mu.Unlock()
	r.pool.Store(pool)
	return nil
}

// poll reloads if the file changed, and reports whether the roots did.
func (r *Roots) poll() bool {
	data, err := os.ReadFile(r.file)
	if err != nil {
		return false
	}
	r.mu.Lock()
	same := bytes.Equal(data, r.seen)
	r.mu.Unlock()
	if same {
		return false
	}
	if err := r.Reload(); err != nil {
		r.log.Error("roots not reloaded; the old ones stay", "err", err)
		return false
	}
	r.log.Info("roots reloaded", "file", r.file)
	return true
}

func parseRoots(data []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s; only certificates belong here", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n+1, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d (%s) is not a CA", n+1, cert.Subject.CommonName)
		}
		pool.AddCert(cert)
		n++
	}
	if n == 0 {
		return nil, errors.New("holds no certificate")
	}
	return pool, nil
}

// ClientConfig returns the configuration for one dial to a name. Don't keep it: build the next one anew.
func (r *Roots) ClientConfig(serverName string, protos ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: r.Pool(), ServerName: serverName, NextProtos: protos}
}

// Credentials returns gRPC credentials that verify serverName against the roots of the moment of each handshake.
func (r *Roots) Credentials(serverName string) credentials.TransportCredentials {
	return &clientCreds{roots: r, name: serverName}
}

// Transport returns an HTTP client transport that verifies each connection against the roots of its moment.
// dial opens the TCP connection; nil = net.Dialer with 10 s.
func (r *Roots) Transport(dial Dialer) *http.Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	return &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("plain HTTP is not spoken here")
		},
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			raw, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			conn := tls.Client(raw, r.ClientConfig(host, "http/1.1"))
			if err := conn.HandshakeContext(ctx); err != nil {
				_ = raw.Close()
				return nil, fmt.Errorf("TLS to %s: %w", addr, err)
			}
			return conn, nil
		},
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
	}
}

// clientCreds are TLS credentials whose roots are those of the handshake's moment.
type clientCreds struct {
	roots *Roots
	name  string
	cert  *Certificate // shown when the server asks; nil = none
}

// MutualCredentials is Credentials with a client certificate.
func (r *Roots) MutualCredentials(serverName string, cert *Certificate) credentials.TransportCredentials {
	return &clientCreds{roots: r, name: serverName, cert: cert}
}

func (c *clientCreds) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg := c.roots.ClientConfig(c.name)
	if c.cert != nil {
		cfg.GetClientCertificate = c.cert.GetClientCertificate
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, raw)
}

func (c *clientCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials cannot serve")
}

func (c *clientCreds) Info() credentials.ProtocolInfo {
	return credentials.NewTLS(c.roots.ClientConfig(c.name)).Info()
}

func (c *clientCreds) Clone() credentials.TransportCredentials { d := *c; return &d }

// OverrideServerName is part of an interface that is going away; the name is fixed at construction.
func (c *clientCreds) OverrideServerName(string) error { return nil }
