package keyslot

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/crypto/argon2"
)

// KeyLen is the length of the master key.
const KeyLen = 32

// errWrong says that the secret does not open this slot.
var errWrong = errors.New("the secret does not open the slot")

// makeRow makes a slot round the master key. secret is canonical already.
func makeRow(kind Kind, secret, mek []byte, costs Costs, now time.Time) (Row, error) {
	id := make([]byte, 8)
	salt := make([]byte, saltLen)
	_, _ = rand.Read(id) // crypto/rand.Read never fails: it ends the process instead
	_, _ = rand.Read(salt)
	r := Row{ID: hex.EncodeToString(id), Kind: kind, Params: Params{KDF: kdfHKDF, Salt: salt}, CreatedAt: now.UTC()}
	if kind == Password {
		r.Params.KDF, r.Params.Costs = kdfArgon2id, costs
	}
	priv, err := hpke.MLKEM768X25519().GenerateKey()
	if err != nil {
		return Row{}, fmt.Errorf("generate slot key: %w", err)
	}
	seed, err := priv.Bytes()
	if err != nil {
		return Row{}, fmt.Errorf("encode slot key: %w", err)
	}
	defer clear(seed)
	r.Pub = priv.PublicKey().Bytes()
	kek, err := derive(r, secret)
	if err != nil {
		return Row{}, err
	}
	defer clear(kek)
	aead, err := wrapper(kek)
	if err != nil {
		return Row{}, err
	}
	r.WrappedPriv = aead.Seal(nil, nil, seed, r.aad())
	return sealTo(r, mek)
}

// sealTo returns the row with the master key sealed to its public key.
func sealTo(r Row, mek []byte) (Row, error) {
	pub, err := hpke.MLKEM768X25519().NewPublicKey(r.Pub)
	if err != nil {
		return Row{}, damaged("slot %s: public key", r.ID).Wrap(err)
	}
	r.SealedMEK, err = hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), r.aad(), mek)
	if err != nil {
		return Row{}, fmt.Errorf("seal to slot %s: %w", r.ID, err)
	}
	return r, nil
}

// openRow returns the master key, errWrong, or an integrity fault.
func openRow(r Row, secret []byte, floor Costs) ([]byte, error) {
	if err := r.Params.check(r.Kind, floor); err != nil {
		return nil, err
	}
	kek, err := derive(r, secret)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	aead, err := wrapper(kek)
	if err != nil {
		return nil, err
	}
	seed, err := aead.Open(nil, nil, r.WrappedPriv, r.aad())
	if err != nil {
		return nil, errWrong // or the row was edited: indistinguishable by design
	}
	defer clear(seed)
	priv, err := hpke.MLKEM768X25519().NewPrivateKey(seed)
	if err != nil {
		return nil, damaged("slot %s: private key", r.ID).Wrap(err)
	}
	if string(priv.PublicKey().Bytes()) != string(r.Pub) {
		return nil, damaged("slot %s: public key was exchanged", r.ID)
	}
	mek, err := hpke.Open(priv, hpke.HKDFSHA256(), hpke.AES256GCM(), r.aad(), r.SealedMEK)
	if err != nil || len(mek) != KeyLen {
		return nil, damaged("slot %s: sealed master key", r.ID).Wrap(err)
	}
	return mek, nil
}

// Reseal returns the rows with a new master key sealed to each one's public key; the caller stores them together with
// what the new key wraps. It trusts the public keys: the caller has checked the rows' digests ([Row.Digestible]).
func Reseal(rows []Row, m *Master) ([]Row, error) {
	out := make([]Row, len(rows))
	err := m.Use(func(mek []byte) error {
		for i, r := range rows {
			var err error
			if out[i], err = sealTo(r, mek); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// derive makes the key-encryption key from the canonical secret.
func derive(r Row, secret []byte) ([]byte, error) {
	if r.Params.KDF == kdfArgon2id {
		c := r.Params.Costs
		kek := argon2.IDKey(secret, r.Params.Salt, c.Time, c.Memory, c.Threads, KeyLen)
		debug.FreeOSMemory() // or Argon2's 128 MiB stay resident
		return kek, nil
	}
	kek, err := hkdf.Key(sha256.New, secret, r.Params.Salt, "keyslot/v1 kek", KeyLen)
	if err != nil {
		return nil, fmt.Errorf("derive slot key: %w", err)
	}
	return kek, nil
}

// wrapper is AES-256-GCM that chooses its own nonce.
func wrapper(kek []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, fmt.Errorf("slot cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("slot cipher: %w", err)
	}
	return aead, nil
}
