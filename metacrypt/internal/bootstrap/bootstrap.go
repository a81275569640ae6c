package bootstrap

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/mcdsl/secret"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/ident"
)

// Names of the files.
const (
	RootCert   = "ca.pem"
	RootKey    = "root.key"
	IssuerCert = "issuer.pem"
	IssuerKey  = "issuer.key"
)

// LeafLife is how long the first certificates live: long enough for a slow first day, short enough not to linger.
const LeafLife = 14 * 24 * time.Hour

// Options of [Run].
type Options struct {
	Dir       string         // made if absent
	Domain    string         // the platform's domain, and the zone of the issuer
	Services  []string       // each gets <service>.<domain>
	Nets      []netip.Prefix // networks whose addresses the issuer may sign; usually none
	PublicURL string         // http://metacrypt.<domain>/pki: where lists and issuers will be; empty = no URL in the certificates
	Clock     clock.Clock
}

// Leaf is one service's certificate.
type Leaf struct {
	Service  string    `json:"service"`
	Name     string    `json:"name"`
	CertFile string    `json:"cert_file"`
	KeyFile  string    `json:"key_file"`
	NotAfter time.Time `json:"not_after"`
	State    string    `json:"state"` // made or kept
}

// Result says what there is now.
type Result struct {
	State       string `json:"state"` // done or unchanged
	Domain      string `json:"domain"`
	CAFile      string `json:"ca_file"`
	Fingerprint string `json:"fingerprint"` // SHA-256 of the root's DER, hex
	Adopted     bool   `json:"adopted"`     // the root's key is no longer here
	Leaves      []Leaf `json:"leaves"`
}

var serviceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Run makes what is missing.
func Run(ctx context.Context, opt Options) (*Result, error) {
	zone, err := ident.Parse(opt.Domain)
	if err != nil || zone.IsIP() {
		return nil, fault.Field1("domain", "%q is no domain name", opt.Domain)
	}
	for _, s := range opt.Services {
		if !serviceName.MatchString(s) {
			return nil, fault.Field1("service", "%q is no service name: lower case letters, digits and hyphens", s)
		}
	}
	opt.Domain, opt.Clock = zone.String(), clock.Or(opt.Clock)
	if err := os.MkdirAll(opt.Dir, 0o750); err != nil {
		return nil, fault.New(fault.Invalid, "cannot make the folder %s", opt.Dir).Wrap(err).WithNext("choose another with --out DIR")
	}
	lock, err := lockSoon(ctx, opt.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Unlock() }()
	r := &run{Options: opt, now: opt.Clock.Now(), res: &Result{State: "unchanged", Domain: opt.Domain, Leaves: []Leaf{}}}
	if err := r.all(); err != nil {
		return nil, err
	}
	return r.res, nil
}

// lockSoon takes the folder's lock, waiting up to two seconds for another run to end.
func lockSoon(ctx context.Context, dir string) (*db.Lock, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for try := 0; ; try++ {
		lock, err := db.LockFolder(dir)
		if err == nil || try == 20 || !fault.Is(err, fault.Conflict) {
			return lock, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// run is one run.
type run struct {
	Options
	now    time.Time
	root   ca.Authority // Key is nil after adopt
	issuer ca.Authority // made on demand
	res    *Result
}

func (r *run) path(name string) string { return filepath.Join(r.Dir, name) }

func (r *run) all() error {
	if err := r.findRoot(); err != nil {
		return err
	}
	r.res.CAFile, r.res.Fingerprint, r.res.Adopted = r.path(RootCert), ca.Fingerprint(r.root.Cert), r.root.Key == nil
	if !r.res.Adopted {
		if err := r.findIssuer(); err != nil {
			return err
		}
	}
	for _, s := range r.Services {
		leaf, err := r.leaf(s)
		if err != nil {
			return err
		}
		r.res.Leaves = append(r.res.Leaves, *leaf)
		if leaf.State == "made" {
			r.res.State = "done"
		}
	}
	return nil
}

// findRoot reads the root, or makes one where there is none. The key is written first: a key without a certificate was
// never used, and the next run goes on with it.
func (r *run) findRoot() error {
	key, err := r.key(RootKey)
	if err != nil {
		return err
	}
	cert, err := r.cert(RootCert)
	switch {
	case err == nil:
		r.root = ca.Authority{Cert: cert, Key: key}
		if key != nil && !samePublic(key.Public(), cert.PublicKey) {
			return fault.New(fault.Precondition, "%s is not the key of %s", r.path(RootKey), r.path(RootCert)).
				WithNext("restore both from the same backup; nothing was changed")
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if key == nil {
		if key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader); err != nil {
			return fmt.Errorf("generate root key: %w", err)
		}
		if err := r.writeKey(RootKey, key); err != nil {
			return err
		}
	}
	if r.root, err = ca.NewRootFor(key, "Metacircular root for "+r.Domain, r.now); err != nil {
		return err
	}
	r.res.State = "done"
	return r.write(RootCert, ca.PEM(r.root.Cert))
}

// findIssuer reads the bootstrap issuer, or makes one where there is none that serves.
func (r *run) findIssuer() error {
	key, err := r.key(IssuerKey)
	if err != nil {
		return err
	}
	cert, err := r.cert(IssuerCert)
	if err == nil && key != nil && samePublic(key.Public(), cert.PublicKey) && cert.CheckSignatureFrom(r.root.Cert) == nil &&
		cert.NotAfter.After(r.now.Add(LeafLife)) && len(ca.Zones(cert)) == 1 && ca.Zones(cert)[0] == r.Domain {
		r.issuer = ca.Authority{Cert: cert, Key: key}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	spec := ca.IssuerSpec{Name: "Metacircular bootstrap issuer for " + r.Domain, Zones: []string{r.Domain}, Nets: r.Nets, Life: ca.BootstrapIssuerLife}
	if r.PublicURL != "" {
		spec.CRLURL, spec.AIAURL = r.PublicURL+"/pki/crl/root", r.PublicURL+"/pki/ca"
	}
	if r.issuer, err = ca.NewIssuer(r.root, spec, r.now); err != nil {
		return err
	}
	r.res.State = "done"
	if err := r.writeKey(IssuerKey, r.issuer.Key); err != nil {
		return err
	}
	return r.write(IssuerCert, ca.PEM(r.issuer.Cert))
}

// leaf keeps a service's certificate that serves, or makes one.
func (r *run) leaf(service string) (*Leaf, error) {
	out := &Leaf{Service: service, Name: service + "." + r.Domain, CertFile: r.path(service + ".crt"), KeyFile: r.path(service + ".key"), State: "kept"}
	key, err := r.key(service + ".key")
	if err != nil {
		return nil, err
	}
	if cert := r.serves(service+".crt", key, out.Name); cert != nil {
		out.NotAfter = cert.NotAfter.UTC()
		return out, nil
	}
	if r.issuer.Key == nil {
		return nil, fault.New(fault.Precondition, "%s has no certificate here, and the root has been adopted: its key is in Metacrypt", out.Name).
			WithNext("metacrypt pki issue --out-dir %s %s", r.Dir, out.Name)
	}
	name, err := ident.Parse(out.Name)
	if err != nil {
		return nil, fault.Field1("service", "%v", err)
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key of %s: %w", service, err)
	}
	profile, err := ca.ProfileByName("server")
	if err != nil {
		return nil, err
	}
	spec := ca.LeafSpec{Profile: profile, Names: []ident.Name{name}, Key: fresh.Public(), Life: LeafLife}
	if r.PublicURL != "" {
		spec.CRLURL, spec.AIAURL = r.PublicURL+"/pki/crl/bootstrap", r.PublicURL+"/pki/issuer/bootstrap"
	}
	cert, err := ca.NewLeaf(r.root.Cert, r.issuer, spec, r.now)
	if err != nil {
		return nil, err
	}
	out.NotAfter, out.State = cert.NotAfter.UTC(), "made"
	if err := r.writeKey(service+".key", fresh); err != nil {
		return nil, err
	}
	return out, r.write(service+".crt", ca.PEM(cert, r.issuer.Cert))
}

// serves returns the certificate in the file if it fits key and name, leads to the root and is not near its end.
func (r *run) serves(file string, key crypto.Signer, name string) *x509.Certificate {
	b, err := os.ReadFile(r.path(file))
	if err != nil || key == nil {
		return nil
	}
	chain, err := ca.ParseChain(b)
	if err != nil || len(chain) < 2 || !samePublic(key.Public(), chain[0].PublicKey) {
		return nil
	}
	names, err := ca.Names(chain[0])
	if err != nil || len(names) != 1 || names[0].String() != name {
		return nil
	}
	if ca.VerifyChain(r.root.Cert, chain[1], chain[0], []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, r.now) != nil {
		return nil
	}
	life := chain[0].NotAfter.Sub(chain[0].NotBefore)
	if chain[0].NotAfter.Sub(r.now) < life/3 && r.issuer.Key != nil {
		return nil
	}
	return chain[0]
}

func (r *run) key(name string) (crypto.Signer, error) {
	v, err := secret.ReadFile(r.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot use the key file %s", r.path(name)).Wrap(err)
	}
	defer v.Wipe()
	k, err := ca.ParseKey(v.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path(name), err)
	}
	return k, nil
}

func (r *run) cert(name string) (*x509.Certificate, error) {
	b, err := os.ReadFile(r.path(name))
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	c, err := ca.ParseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.path(name), err)
	}
	return c, nil
}

func (r *run) writeKey(name string, key crypto.Signer) error {
	b, err := ca.KeyPEM(key)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	defer clear(b)
	return r.write(name, b)
}

func (r *run) write(name string, b []byte) error {
	if err := secret.WriteFile(r.path(name), b); err != nil {
		return fault.New(fault.Invalid, "cannot write %s", r.path(name)).Wrap(err).
			WithNext("make room or choose another folder with --out DIR, then run this again")
	}
	return nil
}

// samePublic compares public keys.
func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
