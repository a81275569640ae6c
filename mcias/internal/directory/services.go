package directory

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/revoke"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/token"
)

// maxLiveKeys is how many live keys an account may have: the old and the new one of a rotation.
const maxLiveKeys = 2

// CreateService makes a system account, with its first key if one is given.
func (d *Directory) CreateService(ctx context.Context, by audit.By, n NewAccount, pub []byte) (a *account.Account, k *account.ServiceKey, err error) {
	n.Type = account.System
	if err := n.check(); err != nil {
		return nil, nil, err
	}
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		k = nil
		if a, err = d.insert(tx, by, n, now); err != nil || len(pub) == 0 {
			return err
		}
		k, err = d.addKey(tx, by, a, pub, nil, time.Time{}, now)
		return err
	})
	return a, k, err
}

// AddKey registers a public key.
func (d *Directory) AddKey(ctx context.Context, by audit.By, name string, pub []byte, services []string, notAfter time.Time) (k *account.ServiceKey, err error) {
	now := d.Clock.Now()
	err = d.write(ctx, func(tx *db.Tx) error {
		a, err := find(tx, name)
		if err != nil {
			return err
		}
		k, err = d.addKey(tx, by, a, pub, services, notAfter, now)
		return err
	})
	return k, err
}

func (d *Directory) addKey(tx *db.Tx, by audit.By, a *account.Account, pub []byte, services []string, notAfter, now time.Time) (*account.ServiceKey, error) {
	if a.Type != account.System {
		return nil, fault.New(fault.Precondition, "%s is a person; only system accounts have service keys", a.Name)
	}
	if len(pub) != ed25519.PublicKeySize {
		return nil, fault.Field1("public_key", "is not an Ed25519 public key of 32 bytes")
	}
	for _, s := range services {
		if err := account.CheckClientID(s); err != nil {
			return nil, fault.Field1("services", "%q: %v", s, err)
		}
	}
	if !notAfter.IsZero() && !notAfter.After(now) {
		return nil, fault.Field1("not_after", "lies in the past")
	}
	kid, err := token.Thumbprint(ed25519.PublicKey(pub))
	if err != nil {
		return nil, err
	}
	if old, err := store.ServiceKeyByKID(tx, kid); err == nil {
		if old.Account == a.ID && old.Live(now) {
			return old, nil // registering the same key again is no change
		}
		return nil, fault.New(fault.Exists, "this key is or was registered already")
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	have, err := store.ServiceKeys(tx, a.ID)
	if err != nil {
		return nil, err
	}
	live := 0
	for _, k := range have {
		if k.Live(now) {
			live++
		}
	}
	if live >= maxLiveKeys {
		return nil, fault.New(fault.Precondition, "%s has %d live keys, the most there can be", a.Name, live).WithNext("mcias service key retire %s KID", a.Name)
	}
	k := &account.ServiceKey{Account: a.ID, KID: kid, Public: pub, Services: services, Created: now, NotAfter: notAfter}
	if err := store.InsertServiceKey(tx, k); err != nil {
		return nil, err
	}
	return k, audited(tx, now, by.Record("service.key.add", a.Name, "kid", kid, "services", strings.Join(services, " ")))
}

// RetireKey ends a key and kills the tokens minted from it.
func (d *Directory) RetireKey(ctx context.Context, by audit.By, name, kid string) error {
	now := d.Clock.Now()
	return d.write(ctx, func(tx *db.Tx) error {
		a, err := find(tx, name)
		if err != nil {
			return err
		}
		k, err := store.ServiceKeyByKID(tx, kid)
		if errors.Is(err, store.ErrNotFound) || err == nil && k.Account != a.ID {
			return fault.New(fault.NotFound, "%s has no key %q", a.Name, kid).WithNext("mcias service key list %s", a.Name)
		}
		if err != nil {
			return err
		}
		if !k.Retired.IsZero() {
			return nil
		}
		if err := d.retire(tx, kid, now); err != nil {
			return err
		}
		return audited(tx, now, by.Record("service.key.retire", a.Name, "kid", kid))
	})
}

// retire ends a key with its revocation row.
func (d *Directory) retire(tx *db.Tx, kid string, now time.Time) error {
	did, err := store.RetireServiceKey(tx, kid, now)
	if err != nil || !did {
		return err
	}
	_, err = d.Killer.Kill(tx, now, revoke.Row{Kind: revoke.Key, Value: kid})
	return err
}

// Keys lists an account's keys, newest first.
func (d *Directory) Keys(ctx context.Context, name string) (out []*account.ServiceKey, err error) {
	err = d.DB.Read(ctx, func(v *db.View) error {
		a, err := find(v, name)
		if err != nil {
			return err
		}
		out, err = store.ServiceKeys(v, a.ID)
		return err
	})
	return out, err
}
