package token

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
	mciasv1 "metacircular.net/mcias/api/mcias/v1"

	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/vault"
)

// Uses and states of keys.
const (
	Platform = "platform"
	OIDC     = "oidc"

	Next        = "next"
	Active      = "active"
	Retiring    = "retiring"
	Gone        = "gone"
	Compromised = "compromised"
)

// Config of the keys.
type Config struct {
	RSABits int
	// Overlap is how long a retired key verifies: the longest token it can have signed, and leeway.
	Overlap time.Duration
}

// Keys are MCIAS's own keys.
type Keys struct {
	db    *db.DB
	clock clock.Clock
	cfg   Config

	mu      sync.RWMutex // guards all below
	all     []*store.SigningKey
	set     *mciasv1.KeySet
	jwks    jose.JSONWebKeySet
	cipher  *vault.Cipher // nil while sealed
	signers map[string]jose.Signer
	kids    map[string]string
}

// New returns the keys; Load reads them.
func New(d *db.DB, c clock.Clock, cfg Config) *Keys {
	return &Keys{db: d, clock: clock.Or(c), cfg: cfg, set: keySet(nil)}
}

// Generate makes a key of a family and encrypts its private half.
func Generate(c *vault.Cipher, use string, rsaBits int, now time.Time) (*store.SigningKey, error) {
	k := &store.SigningKey{Use: use, State: Active, Created: now, NotBefore: now}
	var priv crypto.Signer
	switch use {
	case Platform:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		priv, k.Alg = key, string(jose.EdDSA)
	case OIDC:
		key, err := rsa.GenerateKey(rand.Reader, rsaBits)
		if err != nil {
			return nil, err
		}
		priv, k.Alg = key, string(jose.RS256)
	default:
		return nil, fault.Field1("use", "%q is neither platform nor oidc", use)
	}
	var err error
	if k.Pub, err = x509.MarshalPKIXPublicKey(priv.Public()); err != nil {
		return nil, err
	}
	if k.KID, err = Thumbprint(priv.Public()); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, err
	}
	k.PrivEnc = c.Seal("signing_key", "priv_enc", k.KID, der)
	clear(der)
	return k, nil
}

// Thumbprint returns the RFC 7638 thumbprint of a public key.
func Thumbprint(pub crypto.PublicKey) (string, error) {
	jwk := jose.JSONWebKey{Key: pub}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// Load reads the keys from the database and, if the vault is open, their private halves.
func (k *Keys) Load(ctx context.Context) error {
	var all []*store.SigningKey
	err := k.db.Read(ctx, func(v *db.View) (err error) {
		all, err = store.SigningKeys(v)
		return err
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.use(all, k.cipher)
}

// Opened implements vault.Listener.
func (k *Keys) Opened(_ context.Context, c *vault.Cipher) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.use(k.all, c)
}

// Closed implements vault.Listener.
func (k *Keys) Closed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cipher, k.signers, k.kids = nil, nil, nil
}

// use puts keys in force. Called with mu held.
func (k *Keys) use(all []*store.SigningKey, c *vault.Cipher) error {
	var platform []*mciasv1.PublicKey
	var jwks jose.JSONWebKeySet
	signers, kids := map[string]jose.Signer{}, map[string]string{}
	for _, key := range all {
		if key.State == Gone || key.State == Compromised {
			continue
		}
		pub, err := x509.ParsePKIXPublicKey(key.Pub)
		if err != nil {
			return fmt.Errorf("signing key %s: %w", key.KID, err)
		}
		if key.Use == Platform {
			ed, ok := pub.(ed25519.PublicKey)
			if !ok {
				return fmt.Errorf("signing key %s: not Ed25519", key.KID)
			}
			platform = append(platform, &mciasv1.PublicKey{Kid: key.KID, Alg: key.Alg, PublicKey: ed, State: key.State})
		} else {
			jwks.Keys = append(jwks.Keys, jose.JSONWebKey{Key: pub, KeyID: key.KID, Algorithm: key.Alg, Use: "sig"})
		}
		if c != nil && key.State == Active {
			s, err := signer(c, key)
			if err != nil {
				return err
			}
			signers[key.Use], kids[key.Use] = s, key.KID
		}
	}
	k.all, k.set, k.jwks = all, keySet(platform), jwks
	k.cipher = c
	if c != nil {
		k.signers, k.kids = signers, kids
	}
	return nil
}

func signer(c *vault.Cipher, key *store.SigningKey) (jose.Signer, error) {
	der, err := c.Open("signing_key", "priv_enc", key.KID, key.PrivEnc)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	priv, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", key.KID, err)
	}
	typ := jose.ContentType("at+jwt")
	if key.Use == OIDC {
		typ = "JWT"
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Alg), Key: jose.JSONWebKey{Key: priv, KeyID: key.KID}},
		(&jose.SignerOptions{}).WithType(typ))
}

// keySet makes the wire form with its digest.
func keySet(keys []*mciasv1.PublicKey) *mciasv1.KeySet {
	slices.SortFunc(keys, func(a, b *mciasv1.PublicKey) int { return strings.Compare(a.Kid, b.Kid) })
	h := sha256.New()
	for _, k := range keys {
		h.Write([]byte(k.Kid + "\n"))
	}
	return &mciasv1.KeySet{Keys: keys, Digest: hex.EncodeToString(h.Sum(nil))}
}

// Set returns the platform key set. Callers do not change it.
func (k *Keys) Set() *mciasv1.KeySet {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.set
}

// JWKS returns the OIDC key set.
func (k *Keys) JWKS() jose.JSONWebKeySet {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.jwks
}

// Sign signs a payload with the active key of a family.
func (k *Keys) Sign(use string, payload []byte) (string, error) {
	k.mu.RLock()
	s := k.signers[use]
	k.mu.RUnlock()
	if s == nil {
		return "", vault.ErrSealed()
	}
	obj, err := s.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return obj.CompactSerialize()
}

// List returns all keys, oldest first.
func (k *Keys) List() []*store.SigningKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Clone(k.all)
}

// Replace makes a new active key of a family. The old active one becomes state (retiring or compromised). note runs in
// the same transaction and gets both. The caller reloads by Load and publishes.
func (k *Keys) Replace(ctx context.Context, use, state string, note func(tx *db.Tx, fresh, old *store.SigningKey) error) (fresh, old *store.SigningKey, err error) {
	k.mu.RLock()
	c := k.cipher
	k.mu.RUnlock()
	if c == nil {
		return nil, nil, vault.ErrSealed()
	}
	now := k.clock.Now()
	if fresh, err = Generate(c, use, k.cfg.RSABits, now); err != nil {
		return nil, nil, err
	}
	err = k.db.Write(ctx, func(tx *db.Tx) error {
		old = nil
		all, err := store.SigningKeys(tx)
		if err != nil {
			return err
		}
		for _, o := range all {
			if o.Use == use && o.State == Active {
				old = o
			}
		}
		if old != nil {
			old.State, old.RetireAt = state, now.Add(k.cfg.Overlap)
			if err := store.MoveSigningKey(tx, old.KID, state, old.RetireAt); err != nil {
				return err
			}
		}
		if err := store.InsertSigningKey(tx, fresh); err != nil {
			return err
		}
		return note(tx, fresh, old)
	})
	if err != nil {
		return nil, nil, err
	}
	return fresh, old, k.Load(ctx)
}

// Compromise marks a key that is not active as compromised.
func (k *Keys) Compromise(ctx context.Context, kid string, note func(tx *db.Tx) error) error {
	err := k.db.Write(ctx, func(tx *db.Tx) error {
		if err := store.MoveSigningKey(tx, kid, Compromised, k.clock.Now()); err != nil {
			return err
		}
		return note(tx)
	})
	if err != nil {
		return err
	}
	return k.Load(ctx)
}

// Find returns a key by its id.
func (k *Keys) Find(kid string) (*store.SigningKey, error) {
	for _, key := range k.List() {
		if key.KID == kid {
			return key, nil
		}
	}
	return nil, fault.New(fault.NotFound, "there is no signing key %q", kid).WithNext("mcias key list")
}

// Retire moves retiring keys whose last token has ended to gone, and reports whether any moved.
func (k *Keys) Retire(ctx context.Context) (bool, error) {
	now := k.clock.Now()
	var due []string
	for _, key := range k.List() {
		if key.State == Retiring && !now.Before(key.RetireAt) {
			due = append(due, key.KID)
		}
	}
	if len(due) == 0 {
		return false, nil
	}
	err := k.db.Write(ctx, func(tx *db.Tx) error {
		var errs []error
		for _, kid := range due {
			errs = append(errs, store.MoveSigningKey(tx, kid, Gone, now))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return false, err
	}
	return true, k.Load(ctx)
}
