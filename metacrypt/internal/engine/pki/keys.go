package pki

import (
	"crypto"
	"crypto/x509"
	"fmt"

	"metacircular.net/metacrypt/internal/barrier"
)

func keyPath(issuer string) string { return "issuers/" + issuer + "/key" }

// putKey stores the key of root or issuer as PKCS #8.
func putKey(tx *barrier.Tx, mount, issuer string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key of %s: %w", issuer, err)
	}
	defer clear(der)
	_, err = tx.Put(mount, keyPath(issuer), der)
	return err
}

// getKey returns the key of root or issuer.
func getKey(v *barrier.View, mount, issuer string) (crypto.Signer, error) {
	der, rev, err := v.Get(mount, keyPath(issuer))
	if err != nil {
		return nil, err
	}
	if rev == 0 {
		return nil, barrier.Integrity("the key of issuer %q is gone", issuer)
	}
	defer clear(der)
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("decode key of %s: %w", issuer, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key of %s cannot sign", issuer)
	}
	return s, nil
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
