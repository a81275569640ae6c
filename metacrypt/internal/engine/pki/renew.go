package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/ca"
	"metacircular.net/metacrypt/internal/ident"
	"metacircular.net/metacrypt/internal/store"
)

// maxSuccessors of one certificate: a lost answer must not strand a machine, a copied key must not breed.
const maxSuccessors = 5

// renewLabel begins what is signed.
const renewLabel = "metacrypt-renew-v1"

// RenewMessage returns what the old key signs: four fields, each preceded by its length.
func RenewMessage(nonce, oldLeaf, csr []byte) []byte {
	var out []byte
	for _, f := range [][]byte{[]byte(renewLabel), nonce, digest(oldLeaf), digest(csr)} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f))) //nolint:gosec // short
		out = append(out, f...)
	}
	return out
}

// SignRenewal signs a renewal with the old key, as a client does.
func SignRenewal(key crypto.Signer, nonce, oldLeaf, csr []byte) ([]byte, error) {
	msg := RenewMessage(nonce, oldLeaf, csr)
	if _, ok := key.Public().(ed25519.PublicKey); ok {
		return key.Sign(rand.Reader, msg, crypto.Hash(0))
	}
	return key.Sign(rand.Reader, digest(msg), crypto.SHA256)
}

func verifyRenewal(pub crypto.PublicKey, msg, sig []byte) bool {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, msg, sig)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, digest(msg), sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest(msg), sig) == nil
	}
	return false
}

// Renewal is a request for the successor of a certificate.
type Renewal struct {
	OldLeaf, CSR, Nonce, Signature []byte
}

// Allow asks policy whether a requester may still have these names.
type Allow func(by Requester, profile string, names []ident.Name) error

// Challenge returns a one-time nonce.
func (e *Engine) Challenge() ([]byte, time.Time) { return e.nonces.make() }

// Renew makes the successor of a certificate for the holder of its key.
func (e *Engine) Renew(ctx context.Context, r Renewal, allow Allow) (*Issued, error) {
	old, err := ca.ParseCertificate(r.OldLeaf)
	if err != nil {
		return nil, err
	}
	req, err := ca.ParseRequest(r.CSR)
	if err != nil {
		return nil, err
	}
	if !e.nonces.take(r.Nonce) {
		return nil, fault.New(fault.Unauthenticated, "the nonce is unknown, used or expired").WithReason("BAD_NONCE").
			WithNext("ask for a new one with RenewChallenge")
	}
	if ca.CheckKey(old.PublicKey) != nil || !verifyRenewal(old.PublicKey, RenewMessage(r.Nonce, old.Raw, req.DER), r.Signature) {
		return nil, fault.New(fault.Unauthenticated, "the request is not signed by the certificate's key").WithReason("BAD_PROOF")
	}
	row, by, err := e.ours(ctx, old)
	if err != nil {
		return nil, err
	}
	names, err := ca.Names(old)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(names, req.Names) {
		return nil, fault.Field1("csr", "asks for other names than the certificate has")
	}
	if now := e.cfg.Clock.Now(); now.After(old.NotAfter.Add(e.cfg.RenewGrace)) {
		return nil, fault.New(fault.Denied, "the certificate expired too long ago").WithReason("EXPIRED").WithNext("metacrypt pki sign")
	}
	if err := allow(by, row.Profile, names); err != nil {
		return nil, err
	}
	guard := func(tx *barrier.Tx) error {
		if err := notRevoked(&tx.View, e.mount.Name, row.Serial); err != nil {
			return err
		}
		n, err := store.CountSuccessors(tx.SQL(), row.Serial)
		if err == nil && n >= maxSuccessors {
			return fault.New(fault.Exhausted, "certificate %s has been renewed %d times already", row.Serial, n).WithReason("SUCCESSORS").
				WithNext("metacrypt pki sign")
		}
		return err
	}
	return e.issue(ctx, req.Key, names, 0, issued{profile: row.Profile, by: by, replaces: row.Serial}, guard)
}

// ours returns the row of a certificate that this mount issued, checked by its MAC.
func (e *Engine) ours(ctx context.Context, old *x509.Certificate) (store.Cert, Requester, error) {
	var row store.Cert
	var by Requester
	serial := ca.SerialText(old.SerialNumber)
	err := e.b.Read(ctx, func(v *barrier.View) error {
		var ok bool
		var err error
		if row, ok, err = store.GetCert(v.SQL(), e.mount.ID, serial); err != nil {
			return err
		}
		if !ok || string(row.DER) != string(old.Raw) {
			return fault.New(fault.Denied, "the certificate is none of mount %q", e.mount.Name).WithReason("NOT_OURS")
		}
		mac, err := e.certMAC(v, row)
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(mac, row.MAC) != 1 {
			return barrier.Integrity("the row of certificate %s was changed or put in", serial)
		}
		if err := json.Unmarshal([]byte(row.Requester), &by); err != nil {
			return barrier.Integrity("the requester of certificate %s cannot be read", serial)
		}
		return notRevoked(v, e.mount.Name, serial)
	})
	return row, by, err
}

// nonces are one-time values in memory; losing them at a restart costs one round trip.
type nonces struct {
	clock clock.Clock
	mu    sync.Mutex
	live  map[[32]byte]time.Time
}

const (
	maxNonces = 1 << 16
	nonceLife = 5 * time.Minute
)

func newNonces(c clock.Clock) *nonces { return &nonces{clock: c, live: map[[32]byte]time.Time{}} }

func (n *nonces) make() ([]byte, time.Time) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: it ends the process instead
	until := n.clock.Now().Add(nonceLife)
	n.mu.Lock()
	defer n.mu.Unlock()
	for k, t := range n.live { // map order is random: with a full map somebody's nonce goes
		if len(n.live) < maxNonces && n.clock.Now().Before(t) {
			break
		}
		delete(n.live, k)
	}
	n.live[sha256.Sum256(b)] = until
	return b, until
}

func (n *nonces) take(b []byte) bool {
	k := sha256.Sum256(b)
	n.mu.Lock()
	defer n.mu.Unlock()
	until, ok := n.live[k]
	delete(n.live, k)
	return ok && n.clock.Now().Before(until)
}
