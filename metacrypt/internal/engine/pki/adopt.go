package pki

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/store"
)

// LocalRoot is the requester of what root asked for over the local socket, and of what bootstrap made.
var LocalRoot = Requester{Subject: "local:root", Name: "local:root", Admin: true} //nolint:gochecknoglobals // a constant

// Adoption is what `pki bootstrap` made. Without keys it is only compared.
type Adoption struct {
	Root, Issuer ca.Authority
	Leaves       []*x509.Certificate
}

// Adopt takes root, bootstrap issuer and leaves in, makes the platform's issuer, and retires the bootstrap issuer, all in
// one transaction. The same root again changes nothing but leaves that were not recorded yet; another root is refused.
func (e *Engine) Adopt(ctx context.Context, a Adoption) (changed bool, err error) {
	e.mu.RLock()
	have := e.root
	e.mu.RUnlock()
	if have != nil {
		if !have.Equal(a.Root.Cert) {
			return false, fault.New(fault.Exists, "mount %q has another root, %s", e.mount.Name, ca.Fingerprint(have)).WithReason("OTHER_ROOT").
				WithNext("metacrypt trust show")
		}
		return false, e.recordLeaves(ctx, a)
	}
	if err := checkAdoption(a, e.cfg.Clock.Now()); err != nil {
		return false, err
	}
	now := e.cfg.Clock.Now()
	next, err := e.newIssuer(a.Root, "issuer-1", ca.Zones(a.Issuer.Cert), a.Issuer.Cert, ca.IssuerLife, now)
	if err != nil {
		return false, err
	}
	err = e.b.Write(ctx, func(tx *barrier.Tx) error {
		if rows, err := store.Issuers(tx.SQL(), e.mount.ID); err != nil || len(rows) > 0 {
			return fault.New(fault.Conflict, "another adopt is under way").Wrap(err)
		}
		for i, row := range []issuer{
			{RootName, StateRoot, a.Root}, {BootstrapName, StateRetired, a.Issuer}, *next,
		} {
			if err := e.putIssuer(tx, row, now.Add(time.Duration(i)*time.Millisecond)); err != nil {
				return err
			}
			if err := putKey(tx, e.mount.Name, row.name, row.auth.Key); err != nil {
				return err
			}
		}
		for _, leaf := range a.Leaves {
			if err := e.record(tx, leaf, issued{issuer: BootstrapName, profile: "server", by: LocalRoot}); err != nil {
				return err
			}
		}
		return putRevoked(tx, e.mount.Name, a.Issuer.Cert, RootName, now, 5) // cessationOfOperation: a new one took over
	})
	if err != nil {
		return false, fmt.Errorf("adopt: %w", err)
	}
	if err := e.b.Read(ctx, e.load); err != nil { // read back what was written
		return false, fmt.Errorf("adopt: read back: %w", err)
	}
	return true, e.RefreshCRLs(ctx, true)
}

// checkAdoption checks keys against certificates and certificates against each other.
func checkAdoption(a Adoption, now time.Time) error {
	bad := func(field, format string, args ...any) error { return fault.Field1(field, format, args...) }
	switch {
	case a.Root.Key == nil || a.Issuer.Key == nil || a.Issuer.Cert == nil:
		return bad("root_key_pem", "the keys of root and issuer are needed to adopt them")
	case !a.Root.Cert.IsCA || a.Root.Cert.CheckSignatureFrom(a.Root.Cert) != nil:
		return bad("root_pem", "is no self-signed authority")
	case !samePublic(a.Root.Key.Public(), a.Root.Cert.PublicKey):
		return bad("root_key_pem", "is not the key of the root")
	case !samePublic(a.Issuer.Key.Public(), a.Issuer.Cert.PublicKey):
		return bad("issuer_key_pem", "is not the key of the issuer")
	case !a.Issuer.Cert.IsCA || a.Issuer.Cert.CheckSignatureFrom(a.Root.Cert) != nil:
		return bad("issuer_pem", "was not signed by the root")
	case len(ca.Zones(a.Issuer.Cert)) == 0 || !a.Issuer.Cert.PermittedDNSDomainsCritical:
		return bad("issuer_pem", "has no critical name constraints")
	case now.After(a.Root.Cert.NotAfter):
		return bad("root_pem", "has expired")
	}
	return checkLeaves(a)
}

func checkLeaves(a Adoption) error {
	for _, l := range a.Leaves {
		if l.IsCA || l.CheckSignatureFrom(a.Issuer.Cert) != nil {
			return fault.Field1("leaves", "a certificate was not signed by the bootstrap issuer")
		}
	}
	return nil
}

// recordLeaves records leaves of the bootstrap issuer that are not known yet.
func (e *Engine) recordLeaves(ctx context.Context, a Adoption) error {
	e.mu.RLock()
	boot := e.issuers[BootstrapName]
	e.mu.RUnlock()
	if boot == nil {
		return nil
	}
	a.Issuer = boot.auth
	var fresh []*x509.Certificate
	for _, l := range a.Leaves {
		if l.CheckSignatureFrom(boot.auth.Cert) == nil && !l.IsCA {
			fresh = append(fresh, l) // others are the platform's own by now, recorded when they were made
		}
	}
	return e.b.Write(ctx, func(tx *barrier.Tx) error {
		for _, l := range fresh {
			if _, ok, err := store.GetCert(tx.SQL(), e.mount.ID, ca.SerialText(l.SerialNumber)); err != nil || ok {
				if err != nil {
					return err
				}
				continue
			}
			if err := e.record(tx, l, issued{issuer: BootstrapName, profile: "server", by: LocalRoot}); err != nil {
				return err
			}
		}
		return nil
	})
}

// newIssuer makes an intermediate under the root.
func (e *Engine) newIssuer(root ca.Authority, name string, zones []string, like *x509.Certificate, life time.Duration, now time.Time) (*issuer, error) {
	auth, err := ca.NewIssuer(root, ca.IssuerSpec{
		Name: "Metacircular " + name, Zones: zones, Nets: ca.Nets(like), Life: life, CRLURL: e.url("crl/" + RootName), AIAURL: e.url("ca"),
	}, now)
	if err != nil {
		return nil, err
	}
	return &issuer{name: name, state: StateActive, auth: auth}, nil
}

// putIssuer stores the public row.
func (e *Engine) putIssuer(tx *barrier.Tx, i issuer, at time.Time) error {
	row := store.Issuer{MountID: e.mount.ID, Name: i.name, State: i.state, DER: i.auth.Cert.Raw, CreatedAt: at.UnixMilli()}
	var err error
	if row.MAC, err = e.issuerMAC(&tx.View, row); err != nil {
		return err
	}
	return store.PutIssuer(tx.SQL(), row)
}

// NewIssuer describes an intermediate to make.
type NewIssuer struct {
	Name  string
	Zones []string // default: those of the active one
	Nets  []netip.Prefix
	Life  time.Duration // default two years
}

var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// CreateIssuer makes an intermediate under the root; from then on it signs. Slot proof was asked before.
func (e *Engine) CreateIssuer(ctx context.Context, n NewIssuer) (Issuer, error) {
	if !issuerName.MatchString(n.Name) || n.Name == RootName {
		return Issuer{}, fault.Field1("name", "%q: lower case letters, digits and hyphens, at most 32, and not %s", n.Name, RootName)
	}
	root, old, err := e.signer()
	if err != nil {
		return Issuer{}, err
	}
	if len(n.Zones) == 0 {
		n.Zones, n.Nets = ca.Zones(old.auth.Cert), ca.Nets(old.auth.Cert)
	}
	for i, z := range n.Zones {
		name, err := ident.Parse(z)
		if err != nil || name.IsIP() {
			return Issuer{}, fault.Field1("permitted_dns", "%q is no domain", z)
		}
		n.Zones[i] = name.String()
	}
	if n.Life <= 0 {
		n.Life = ca.IssuerLife
	}
	now := e.cfg.Clock.Now()
	err = e.b.Write(ctx, func(tx *barrier.Tx) error {
		rows, err := store.Issuers(tx.SQL(), e.mount.ID)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Name == n.Name {
				return fault.New(fault.Exists, "there is an issuer %q already", n.Name)
			}
		}
		key, err := getKey(&tx.View, e.mount.Name, RootName)
		if err != nil {
			return err
		}
		auth, err := ca.NewIssuer(ca.Authority{Cert: root, Key: key}, ca.IssuerSpec{Name: "Metacircular " + n.Name, Zones: n.Zones, Nets: n.Nets, Life: n.Life,
			CRLURL: e.url("crl/" + RootName), AIAURL: e.url("ca")}, now)
		if err != nil {
			return err
		}
		if err := e.putIssuer(tx, issuer{n.Name, StateActive, auth}, now); err != nil {
			return err
		}
		return putKey(tx, e.mount.Name, n.Name, auth.Key)
	})
	if err != nil {
		return Issuer{}, err
	}
	if err := e.b.Read(ctx, e.load); err != nil {
		return Issuer{}, err
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	i := e.issuers[n.Name]
	return Issuer{i.name, i.state, i.auth.Cert}, nil
}
