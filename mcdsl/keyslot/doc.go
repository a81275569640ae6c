// Package keyslot puts slots round one master key, as LUKS does: a password, a recovery code or a credential file
// each opens the same key. It exists because two services seal themselves (the identity provider and the key store)
// and must not do it in two ways.
//
//	slots, err := keyslot.New(keyslot.Config{Service: "metacrypt", Store: store})
//	master, made, err := slots.Init(ctx, keyslot.Secret{Kind: keyslot.Password, Value: pw})
//	fmt.Println(made.RecoveryCode)                      // shown once
//	…
//	master, id, err := slots.Unlock(ctx, keyslot.Secret{Kind: keyslot.Password, Value: pw}, keyslot.Remote)
//	defer master.Close()
//
// A slot is an HPKE key pair (RFC 9180; ML-KEM-768 with X25519, HKDF-SHA256, AES-256-GCM). A key derived from the
// slot's secret wraps the private seed; the master key is sealed to the public key. A pair, and not a wrapped master
// key, so that [Reseal] can give a new master key to a recovery code that lies in a drawer.
//
// Slot id, kind and KDF parameters are bound into both layers, and parameters outside [Floor] and [Cap] are refused
// before anything is derived, so neither can be lowered by editing a row. Attempts are counted durably before
// deriving. What an attacker with the stored rows can do is guess the password offline at the cost of Argon2id.
package keyslot
