package tlsutil

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/log"
)

const (
	defaultPoll = 10 * time.Second
	// A pair is renamed file by file: half of it may be seen for a moment.
	halfWrittenTries = 5
	halfWrittenPause = time.Second
)

// ErrAbsent is in the chain of a load error when a file is not there yet.
var ErrAbsent = errors.New("no certificate yet")

// Config says which certificate to hold.
type Config struct {
	CertFile string        // leaf first, then every intermediate
	KeyFile  string        // PEM private key
	Roots    *Roots        // the chain must lead here
	Names    []string      // host names the certificate must be good for; empty = any
	Client   bool          // the certificate is for client authentication instead of a server
	Poll     time.Duration // default 10 s
	Clock    clock.Clock
	Log      *slog.Logger
	OnChange func(Status) // told after each load and each failure; nil = nobody
}

// Status is what doctor, metrics and pages show of a certificate.
type Status struct {
	File      string
	Loaded    bool
	Names     []string
	Issuer    string
	NotBefore time.Time
	NotAfter  time.Time
	Failures  int       // loads that failed since the start
	Problem   string    // why the last load failed; empty = it did not
	Since     time.Time // of the last change of this status
}

// Certificate is a key pair that reloads.
type Certificate struct {
	cfg  Config
	cert atomic.Pointer[tls.Certificate]

	mu     sync.Mutex // guards what follows, and makes loads one at a time
	status Status
	seen   [sha256.Size]byte // content of the files at the last attempt
}

// NewCertificate loads the pair. An absent, expired or bad file is no error here: it is logged, shown in Status and
// looked for again. Only an impossible Config is an error.
func NewCertificate(cfg Config) (*Certificate, error) {
	if cfg.CertFile == "" || cfg.KeyFile == "" {
		return nil, errors.New("certificate: both tls_cert and tls_key must be set")
	}
	if cfg.Roots == nil {
		return nil, errors.New("certificate: no roots to check the chain against")
	}
	if cfg.Poll <= 0 {
		cfg.Poll = defaultPoll
	}
	cfg.Clock, cfg.Log = clock.Or(cfg.Clock), log.Or(cfg.Log)
	c := &Certificate{cfg: cfg, status: Status{File: cfg.CertFile}}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.load(false)
	c.report(err)
	return c, nil
}

// GetCertificate serves handshakes; it is the field of the same name in tls.Config.
func (c *Certificate) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := c.cert.Load(); cert != nil {
		return cert, nil
	}
	return nil, fmt.Errorf("%s: %w", c.cfg.CertFile, ErrAbsent)
}

// GetClientCertificate shows the pair to a server that asks for one.
func (c *Certificate) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return c.GetCertificate(nil)
}

// ServerConfig returns the configuration of a listener: TLS 1.3 with this certificate.
func (c *Certificate) ServerConfig(protos ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.GetCertificate, NextProtos: protos}
}

// Status returns the present state.
func (c *Certificate) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Reload reads the files now. A failure keeps the certificate in use. A pair that does not fit together is read again
// five times, a second apart, before it counts.
func (c *Certificate) Reload(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.load(true)
	for try := 1; err != nil && !errors.Is(err, ErrAbsent) && try < halfWrittenTries; try++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(halfWrittenPause):
		}
		err = c.load(true)
	}
	c.report(err)
	return err
}

// Watch reloads on change until ctx ends; it is made for run.Background. It polls the roots too.
func (c *Certificate) Watch(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			rootsChanged := c.cfg.Roots.poll()
			if rootsChanged || c.changed() {
				// Logged and counted by report; the old one stays.
				_ = c.Reload(ctx)
			}
		}
	}
}

// changed reports whether the files differ from what the last attempt read.
func (c *Certificate) changed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _, sum := c.read()
	return sum != c.seen
}

func (c *Certificate) read() (certPEM, keyPEM []byte, sum [sha256.Size]byte) {
	h := sha256.New()
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{c.cfg.CertFile, &certPEM}, {c.cfg.KeyFile, &keyPEM}} {
		data, err := os.ReadFile(f.name)
		if err != nil {
			fmt.Fprintf(h, "%v", err)
			continue
		}
		*f.to = data
		fmt.Fprintf(h, "%d:", len(data))
		h.Write(data)
	}
	return certPEM, keyPEM, [sha256.Size]byte(h.Sum(nil))
}

// load reads, checks and publishes. With haveOld semantics: an expired pair never replaces one that still runs.
func (c *Certificate) load(reload bool) error {
	for _, name := range []string{c.cfg.CertFile, c.cfg.KeyFile} {
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			_, _, c.seen = c.read()
			return fmt.Errorf("%s: %w", name, ErrAbsent)
		} else if err != nil {
			return fmt.Errorf("read certificate: %w", err)
		}
	}
	certPEM, keyPEM, sum := c.read()
	c.seen = sum
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", c.cfg.CertFile, c.cfg.KeyFile, err)
	}
	now := c.cfg.Clock.Now()
	if err := c.check(&cert, now); err != nil {
		return fmt.Errorf("%s: %w", c.cfg.CertFile, err)
	}
	if old := c.cert.Load(); old != nil && reload && now.After(cert.Leaf.NotAfter) && now.Before(old.Leaf.NotAfter) {
		return fmt.Errorf("%s: expired on %s; the one in use is good until %s", c.cfg.CertFile,
			cert.Leaf.NotAfter.UTC().Format(time.RFC3339), old.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	c.cert.Store(&cert)
	return nil
}

// check verifies chain, usage and names. Validity in time is judged by the leaf's own dates, so that an
// expired certificate is still told apart from a wrong one: it is better served than nothing.
func (c *Certificate) check(cert *tls.Certificate, now time.Time) error {
	leaf := cert.Leaf
	at := now
	if at.After(leaf.NotAfter) {
		at = leaf.NotAfter
	}
	if at.Before(leaf.NotBefore) {
		at = leaf.NotBefore
	}
	inter := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		ic, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("intermediate certificate: %w", err)
		}
		inter.AddCert(ic)
	}
	usage := x509.ExtKeyUsageServerAuth
	if c.cfg.Client {
		usage = x509.ExtKeyUsageClientAuth
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: c.cfg.Roots.Pool(), Intermediates: inter, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return fmt.Errorf("chain of %d certificates does not lead to the root in %s: %w",
			len(cert.Certificate), c.cfg.Roots.File(), err)
	}
	for _, name := range c.cfg.Names {
		if err := leaf.VerifyHostname(name); err != nil {
			return fmt.Errorf("not for this service's name: %w", err)
		}
	}
	return nil
}

// report updates the status and says it aloud.
func (c *Certificate) report(err error) {
	now := c.cfg.Clock.Now()
	s := &c.status
	s.Since, s.Problem = now, ""
	if cert := c.cert.Load(); cert != nil {
		s.Loaded, s.NotBefore, s.NotAfter = true, cert.Leaf.NotBefore, cert.Leaf.NotAfter
		s.Names, s.Issuer = cert.Leaf.DNSNames, cert.Leaf.Issuer.CommonName
	}
	switch {
	case err != nil && s.Loaded:
		s.Failures, s.Problem = s.Failures+1, err.Error()
		c.cfg.Log.Error("certificate not reloaded; the old one stays", "err", err, "not_after", s.NotAfter.UTC())
	case err != nil:
		s.Failures, s.Problem = s.Failures+1, err.Error()
		c.cfg.Log.Error("no usable certificate: handshakes are refused until there is one", "err", err)
	case now.After(s.NotAfter):
		s.Problem = "expired on " + s.NotAfter.UTC().Format(time.RFC3339)
		c.cfg.Log.Error("certificate has expired; serving it all the same", "file", s.File, "not_after", s.NotAfter.UTC())
	default:
		c.cfg.Log.Info("certificate loaded", "file", s.File, "names", s.Names, "not_after", s.NotAfter.UTC())
	}
	if c.cfg.OnChange != nil {
		c.cfg.OnChange(*s)
	}
}
