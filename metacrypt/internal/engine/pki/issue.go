package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/store"
)

// Requester is who asked for a certificate, as policy saw him then; renewal asks policy about him again.
type Requester struct {
	Subject string   `json:"sub"`
	Name    string   `json:"name"`
	Roles   []string `json:"roles,omitempty"`
	Tags    []string `json:"tags,omitempty"`
	Admin   bool     `json:"admin,omitempty"`
}

// Issued is a new certificate with its chain.
type Issued struct {
	Cert  store.Cert
	Chain []*x509.Certificate // leaf and issuer
}

// issued is what is recorded beside the certificate itself.
type issued struct {
	issuer, profile string
	by              Requester
	replaces        string
}

// Issue signs, records and returns a certificate. Policy has been asked already.
func (e *Engine) Issue(ctx context.Context, by Requester, key crypto.PublicKey, names []ident.Name, profile string, life time.Duration) (*Issued, error) {
	return e.issue(ctx, key, names, life, issued{profile: profile, by: by}, nil)
}

// issue signs outside of the transaction; guard runs inside of it.
func (e *Engine) issue(ctx context.Context, key crypto.PublicKey, names []ident.Name, life time.Duration, meta issued, guard func(*barrier.Tx) error) (*Issued, error) {
	prof, err := ca.ProfileByName(meta.profile)
	if err != nil {
		return nil, err
	}
	root, iss, err := e.signer()
	if err != nil {
		return nil, err
	}
	now := e.cfg.Clock.Now()
	leaf, err := ca.NewLeaf(root, iss.auth, ca.LeafSpec{
		Profile: prof, Names: names, Key: key, Life: life, CRLURL: e.url("crl/" + iss.name), AIAURL: e.url("issuer/" + iss.name),
	}, now)
	if err != nil {
		return nil, err
	}
	meta.issuer, meta.profile = iss.name, prof.Name
	var row store.Cert
	err = e.b.Write(ctx, func(tx *barrier.Tx) error {
		if err := clockWentBack(tx, now); err != nil {
			return err
		}
		if guard != nil {
			if err := guard(tx); err != nil {
				return err
			}
		}
		if err := e.record(tx, leaf, meta); err != nil {
			return err
		}
		var ok bool
		var err error
		if row, ok, err = store.GetCert(tx.SQL(), e.mount.ID, ca.SerialText(leaf.SerialNumber)); err != nil || !ok {
			return fmt.Errorf("read back certificate: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &Issued{Cert: row, Chain: []*x509.Certificate{leaf, iss.auth.Cert}}, nil
}

// clockWentBack refuses to issue while the clock is well before what was issued already.
func clockWentBack(tx *barrier.Tx, now time.Time) error {
	newest, err := store.NewestStart(tx.SQL())
	if err != nil {
		return err
	}
	if now.Unix() < newest-300 {
		return fault.New(fault.Precondition, "the clock went back: it is before the newest certificate").WithReason("CLOCK").
			WithNext("set the clock, then try again")
	}
	return nil
}

// record inserts a certificate's row.
func (e *Engine) record(tx *barrier.Tx, leaf *x509.Certificate, meta issued) error {
	names, err := ca.Names(leaf)
	if err != nil {
		return err
	}
	by, err := json.Marshal(meta.by)
	if err != nil {
		return fmt.Errorf("encode requester: %w", err)
	}
	c := store.Cert{
		Serial: ca.SerialText(leaf.SerialNumber), MountID: e.mount.ID, Issuer: meta.issuer, Profile: meta.profile,
		SPKIHash: digest(leaf.RawSubjectPublicKeyInfo), SANs: ident.Strings(names), NotBefore: leaf.NotBefore.Unix(), NotAfter: leaf.NotAfter.Unix(),
		Requester: string(by), Replaces: meta.replaces, DER: leaf.Raw,
	}
	if c.MAC, err = e.certMAC(&tx.View, c); err != nil {
		return err
	}
	if err := store.PutCert(tx.SQL(), c); err != nil {
		if db.IsUnique(err) {
			return fault.New(fault.Exists, "certificate %s is recorded already", c.Serial)
		}
		return fmt.Errorf("record certificate: %w", err)
	}
	return nil
}

// certMAC is what keeps a certificate's row from being edited. What changes later (revocation) is not in it: that lies in
// the barrier.
func (e *Engine) certMAC(v *barrier.View, c store.Cert) ([]byte, error) {
	return v.MAC(e.mount.Name, "cert", []byte(c.Serial), []byte(c.Issuer), []byte(c.Profile), []byte(c.Requester), []byte(c.Replaces), digest(c.DER))
}

// Cert returns a recorded certificate.
func (e *Engine) Cert(ctx context.Context, serial string) (store.Cert, error) {
	var c store.Cert
	err := e.b.Read(ctx, func(v *barrier.View) error {
		var ok bool
		var err error
		if c, ok, err = store.GetCert(v.SQL(), e.mount.ID, serial); err == nil && !ok {
			return notFound(serial)
		}
		return err
	})
	return c, err
}

// List returns recorded certificates before a sequence number, newest first.
func (e *Engine) List(ctx context.Context, before int64, search string, live bool, limit int) ([]store.Cert, error) {
	var out []store.Cert
	err := e.b.Read(ctx, func(v *barrier.View) error {
		var err error
		out, err = store.ListCerts(v.SQL(), e.mount.ID, before, search, live, e.cfg.Clock.Now().Unix(), limit)
		return err
	})
	return out, err
}

func notFound(serial string) error {
	return fault.New(fault.NotFound, "there is no certificate %s", serial).WithNext("metacrypt pki list")
}
