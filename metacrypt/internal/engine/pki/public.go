package pki

import (
	"context"
	"crypto/x509"
	"errors"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/store"
)

// Public reads what everybody may see, in every state of the seal.
type Public struct{ db *db.DB }

// NewPublic returns a reader of public data.
func NewPublic(d *db.DB) *Public { return &Public{db: d} }

func (p *Public) issuers(ctx context.Context, mount string) (map[string]store.Issuer, *store.Issuer, error) {
	byName := map[string]store.Issuer{}
	var active *store.Issuer
	err := p.db.Read(ctx, func(v *db.View) error {
		m, err := store.MountByName(v, mount)
		if errors.Is(err, db.ErrNoRows) || (err == nil && m.Type != Type) {
			return fault.New(fault.NotFound, "there is no certificate authority %q", mount)
		}
		if err != nil {
			return err
		}
		rows, err := store.Issuers(v, m.ID)
		for i := range rows {
			byName[rows[i].Name] = rows[i]
			if rows[i].State == StateActive {
				active = &rows[i]
			}
		}
		return err
	})
	return byName, active, err
}

func pemOf(ders ...[]byte) ([]byte, error) {
	var certs []*x509.Certificate
	for _, d := range ders {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	return ca.PEM(certs...), nil
}

func noRoot() error {
	return fault.New(fault.NotFound, "there is no root yet").WithReason("NO_ROOT").WithNext("metacrypt pki adopt DIR/ca")
}

// Root returns the root as PEM.
func (p *Public) Root(ctx context.Context, mount string) ([]byte, error) {
	return p.Issuer(ctx, mount, RootName)
}

// Bundle returns every root that clients should trust.
func (p *Public) Bundle(ctx context.Context, mount string) ([]byte, error) { return p.Root(ctx, mount) }

// Chain returns the active issuer and the root.
func (p *Public) Chain(ctx context.Context, mount string) ([]byte, error) {
	byName, active, err := p.issuers(ctx, mount)
	if err != nil {
		return nil, err
	}
	root, ok := byName[RootName]
	if !ok || active == nil {
		return nil, noRoot()
	}
	return pemOf(active.DER, root.DER)
}

// Issuer returns one issuer as PEM.
func (p *Public) Issuer(ctx context.Context, mount, name string) ([]byte, error) {
	byName, _, err := p.issuers(ctx, mount)
	if err != nil {
		return nil, err
	}
	if _, ok := byName[RootName]; !ok {
		return nil, noRoot()
	}
	i, ok := byName[name]
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no issuer %q", name)
	}
	return pemOf(i.DER)
}

// CRL returns the newest list of an issuer as DER.
func (p *Public) CRL(ctx context.Context, mount, issuer string) ([]byte, error) {
	var out []byte
	err := p.db.Read(ctx, func(v *db.View) error {
		m, err := store.MountByName(v, mount)
		if errors.Is(err, db.ErrNoRows) {
			return fault.New(fault.NotFound, "there is no certificate authority %q", mount)
		}
		if err != nil {
			return err
		}
		c, ok, err := store.GetCRL(v, m.ID, issuer)
		if err == nil && !ok {
			return fault.New(fault.NotFound, "there is no revocation list of %q", issuer)
		}
		out = c.DER
		return err
	})
	return out, err
}
