package pki

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"strings"
	"sync"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/store"
)

// Type of the mounts of this engine.
const Type = "pki"

// States of an issuer.
const (
	StateRoot    = "root"
	StateActive  = "active"
	StateRetired = "retired"
)

// Names of the issuers that adopt makes.
const (
	RootName      = "root"
	BootstrapName = "bootstrap"
)

// Config of an engine.
type Config struct {
	PublicURL  string        // http://metacrypt.<domain>/pki; empty = no URL in certificates
	RenewGrace time.Duration // how long after its expiry a certificate can still be renewed
	Clock      clock.Clock
}

// Engine is one mount. Safe for concurrent use.
type Engine struct {
	b      *barrier.Barrier
	mount  store.Mount
	cfg    Config
	nonces *nonces

	mu      sync.RWMutex
	root    *x509.Certificate // nil before adopt
	issuers map[string]*issuer
	active  *issuer

	crlMu sync.Mutex // one list at a time
}

// issuer is an issuer with its key; retired ones keep it for their revocation list.
type issuer struct {
	name  string
	state string
	auth  ca.Authority
}

// Open loads a mount: issuers, their keys, and checks of both.
func Open(ctx context.Context, b *barrier.Barrier, m store.Mount, cfg Config) (*Engine, error) {
	cfg.Clock = clock.Or(cfg.Clock)
	cfg.PublicURL = strings.TrimSuffix(cfg.PublicURL, "/")
	e := &Engine{b: b, mount: m, cfg: cfg, nonces: newNonces(cfg.Clock)}
	return e, b.Read(ctx, e.load)
}

// load reads the issuers.
func (e *Engine) load(v *barrier.View) error {
	rows, err := store.Issuers(v.SQL(), e.mount.ID)
	if err != nil {
		return err
	}
	issuers := map[string]*issuer{}
	var root *x509.Certificate
	var active *issuer
	for _, r := range rows {
		mac, err := e.issuerMAC(v, r)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(mac, r.MAC) != 1 {
			return barrier.Integrity("issuer %q of mount %q was changed or put in", r.Name, e.mount.Name)
		}
		cert, err := x509.ParseCertificate(r.DER)
		if err != nil {
			return barrier.Integrity("issuer %q of mount %q cannot be read", r.Name, e.mount.Name)
		}
		if r.State == StateRoot {
			root = cert
			continue
		}
		i := &issuer{name: r.Name, state: r.State, auth: ca.Authority{Cert: cert}}
		if i.auth.Key, err = getKey(v, e.mount.Name, r.Name); err != nil {
			return err
		}
		issuers[r.Name] = i
		if r.State == StateActive {
			active = i // rows come oldest first: the newest active one signs
		}
	}
	e.mu.Lock()
	e.root, e.issuers, e.active = root, issuers, active
	e.mu.Unlock()
	return nil
}

// issuerMAC is what keeps a row of issuers from being edited.
func (e *Engine) issuerMAC(v *barrier.View, r store.Issuer) ([]byte, error) {
	return v.MAC(e.mount.Name, "issuer", []byte(r.Name), []byte(r.State), r.DER)
}

// Mount returns the mount's name.
func (e *Engine) Mount() string { return e.mount.Name }

// signer returns what a new certificate is signed with.
func (e *Engine) signer() (*x509.Certificate, *issuer, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.root == nil || e.active == nil {
		return nil, nil, fault.New(fault.Precondition, "mount %q has no issuer yet", e.mount.Name).WithReason("NO_ISSUER").
			WithNext("metacrypt pki adopt DIR/ca")
	}
	return e.root, e.active, nil
}

// Zones returns the platform's zones: below them names are reserved.
func (e *Engine) Zones() []string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	var out []string
	for _, i := range e.issuers {
		out = append(out, ca.Zones(i.auth.Cert)...)
	}
	return out
}

// Root returns the root, nil before adopt.
func (e *Engine) Root() *x509.Certificate {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.root
}

// Issuer is an intermediate as others see it.
type Issuer struct {
	Name, State string
	Cert        *x509.Certificate
}

// Issuers returns the intermediates, the active one first.
func (e *Engine) Issuers() []Issuer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := []Issuer{}
	if e.active != nil {
		out = append(out, Issuer{e.active.name, e.active.state, e.active.auth.Cert})
	}
	for _, i := range e.issuers {
		if i != e.active {
			out = append(out, Issuer{i.name, i.state, i.auth.Cert})
		}
	}
	return out
}

// url returns a public URL of this mount, "" when there is none.
func (e *Engine) url(path string) string {
	if e.cfg.PublicURL == "" {
		return ""
	}
	return e.cfg.PublicURL + "/" + e.mount.Name + "/" + path
}

func digest(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:]
}
