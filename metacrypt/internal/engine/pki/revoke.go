package pki

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"time"

	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/store"
)

const revokedPrefix = "revoked/"

// revocation lies in the barrier, where nobody can take it back by editing the file; certs.revoked_at is its index.
type revocation struct {
	Issuer   string `json:"issuer"` // whose list it belongs on
	At       int64  `json:"at"`
	Reason   int    `json:"reason"`
	NotAfter int64  `json:"not_after"`
}

func putRevoked(tx *barrier.Tx, mount string, cert *x509.Certificate, issuer string, at time.Time, reason int) error {
	val, err := json.Marshal(revocation{issuer, at.Unix(), reason, cert.NotAfter.Unix()})
	if err != nil {
		return fmt.Errorf("encode revocation: %w", err)
	}
	_, err = tx.Put(mount, revokedPrefix+ca.SerialText(cert.SerialNumber), val)
	return err
}

// notRevoked refuses a revoked certificate.
func notRevoked(v *barrier.View, mount, serial string) error {
	_, rev, err := v.Get(mount, revokedPrefix+serial)
	if err == nil && rev > 0 {
		return fault.New(fault.Denied, "certificate %s is revoked", serial).WithReason("REVOKED")
	}
	return err
}

// Revoke revokes a certificate; doing it again changes nothing. The list follows within RefreshCRLs.
func (e *Engine) Revoke(ctx context.Context, serial string, reason int) (store.Cert, error) {
	var row store.Cert
	now := e.cfg.Clock.Now()
	err := e.b.Write(ctx, func(tx *barrier.Tx) error {
		var ok bool
		var err error
		if row, ok, err = store.GetCert(tx.SQL(), e.mount.ID, serial); err != nil {
			return err
		}
		if !ok {
			return notFound(serial)
		}
		if _, rev, err := tx.Get(e.mount.Name, revokedPrefix+serial); err != nil || rev > 0 {
			return err
		}
		cert, err := x509.ParseCertificate(row.DER)
		if err != nil {
			return barrier.Integrity("certificate %s cannot be read", serial)
		}
		if err := putRevoked(tx, e.mount.Name, cert, row.Issuer, now, reason); err != nil {
			return err
		}
		row.RevokedAt, row.Reason = now.Unix(), reason
		return store.MarkRevoked(tx.SQL(), serial, now.Unix(), reason)
	})
	return row, err
}

// RefreshCRLs makes the lists that are due, or all of them. A list is due when half of its life is over.
func (e *Engine) RefreshCRLs(ctx context.Context, all bool) error {
	e.crlMu.Lock()
	defer e.crlMu.Unlock()
	e.mu.RLock()
	root := e.root
	issuers := make([]*issuer, 0, len(e.issuers)+1)
	for _, i := range e.issuers {
		issuers = append(issuers, i)
	}
	e.mu.RUnlock()
	if root == nil {
		return nil
	}
	now := e.cfg.Clock.Now()
	byIssuer, due, rootKey, err := e.crlInputs(ctx, now, all)
	if err != nil {
		return err
	}
	issuers = append(issuers, &issuer{name: RootName, auth: ca.Authority{Cert: root, Key: rootKey}})
	for _, i := range issuers {
		if !all && !due(i.name) || now.After(i.auth.Cert.NotAfter) {
			continue
		}
		life := ca.CRLLife
		if i.name == RootName {
			life = ca.RootCRLLife
		}
		var number uint64
		err := e.b.Write(ctx, func(tx *barrier.Tx) error { // a number of its own: signing happens outside
			var err error
			number, err = store.NextSequence(tx.SQL(), "crl/"+e.mount.Name+"/"+i.name)
			return err
		})
		if err != nil {
			return err
		}
		der, err := ca.NewCRL(i.auth, number, byIssuer[i.name], now, life)
		if err != nil {
			return fmt.Errorf("list of %s: %w", i.name, err)
		}
		err = e.b.Write(ctx, func(tx *barrier.Tx) error {
			return store.PutCRL(tx.SQL(), e.mount.ID, store.CRL{Issuer: i.name, Number: number, NextUpdate: now.Add(life).Unix(), DER: der})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// crlInputs reads revocations by issuer, which lists are due, and the root's key, which is not kept in memory.
func (e *Engine) crlInputs(ctx context.Context, now time.Time, all bool) (map[string][]ca.Revoked, func(string) bool, crypto.Signer, error) {
	out := map[string][]ca.Revoked{}
	fresh := map[string]bool{}
	var rootKey crypto.Signer
	err := e.b.Read(ctx, func(v *barrier.View) error {
		paths, err := v.List(e.mount.Name, revokedPrefix)
		if err != nil {
			return err
		}
		for _, p := range paths {
			val, _, err := v.Get(e.mount.Name, p)
			if err != nil {
				return err
			}
			var r revocation
			if err := json.Unmarshal(val, &r); err != nil {
				return fmt.Errorf("decode revocation: %w", err)
			}
			serial, ok := new(big.Int).SetString(strings.TrimPrefix(p, revokedPrefix), 16)
			if !ok || time.Unix(r.NotAfter, 0).Add(ca.CRLLife).Before(now) {
				continue // dropped after one list past its expiry
			}
			out[r.Issuer] = append(out[r.Issuer], ca.Revoked{Serial: serial, At: time.Unix(r.At, 0), Reason: r.Reason})
		}
		rows, err := store.Issuers(v.SQL(), e.mount.ID)
		if err != nil {
			return err
		}
		for _, i := range rows {
			life := ca.CRLLife
			if i.State == StateRoot {
				life = ca.RootCRLLife
			}
			c, ok, err := store.GetCRL(v.SQL(), e.mount.ID, i.Name)
			if err != nil {
				return err
			}
			// Issuers renew their lists when 6 hours are over, the root its own after a month.
			age := life - time.Duration(c.NextUpdate-now.Unix())*time.Second
			fresh[i.Name] = ok && age < life/12 && age > -time.Hour
		}
		if all || !fresh[RootName] {
			rootKey, err = getKey(v, e.mount.Name, RootName)
		}
		return err
	})
	return out, func(name string) bool { return !fresh[name] }, rootKey, err
}
