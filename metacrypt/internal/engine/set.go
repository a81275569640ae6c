// Package engine holds what works behind the open barrier: the policy and one engine per mount. A [Set] lives from
// unseal to seal.
package engine

import (
	"context"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
	"metacircular.net/metacrypt/internal/barrier"
	"metacircular.net/metacrypt/internal/engine/kv"
	"metacircular.net/metacrypt/internal/engine/pki"
	"metacircular.net/metacrypt/internal/engine/policies"
	"metacircular.net/metacrypt/internal/store"
)

// Config is what engines are made with.
type Config struct {
	PKI   pki.Config
	Clock clock.Clock
}

// Set is all engines of an open barrier. Immutable; the engines are safe for concurrent use.
type Set struct {
	Policy *policies.Engine
	pki    map[string]*pki.Engine
	kv     map[string]*kv.Engine
	Broken map[string]string // mounts whose engine did not load, and why
}

// Mounts returns the mounts that a new store gets.
func Mounts() []store.Mount {
	return []store.Mount{barrier.NewMount(barrier.TypeSystem, barrier.System), barrier.NewMount(pki.Type, "pki"), barrier.NewMount(kv.Type, "kv")}
}

// Load opens policy and engines. An engine that does not load makes its own mount unusable and no other; an integrity
// fault is an error of the whole.
func Load(ctx context.Context, b *barrier.Barrier, cfg Config) (*Set, error) {
	s := &Set{pki: map[string]*pki.Engine{}, kv: map[string]*kv.Engine{}, Broken: map[string]string{}}
	var err error
	if s.Policy, err = policies.Open(ctx, b); err != nil {
		return nil, err
	}
	for _, m := range b.Mounts(pki.Type) {
		e, err := pki.Open(ctx, b, m, cfg.PKI)
		if fault.HasReason(err, "INTEGRITY") {
			return nil, err
		}
		if err != nil {
			s.Broken[m.Name] = fault.From(err).Public()
			continue
		}
		s.pki[m.Name] = e
	}
	for _, m := range b.Mounts(kv.Type) {
		s.kv[m.Name] = kv.New(b, m.Name, cfg.Clock)
	}
	return s, nil
}

// KV returns the secrets of a mount.
func (s *Set) KV(mount string) (*kv.Engine, error) {
	e, ok := s.kv[mount]
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no mount %q for secrets", mount)
	}
	return e, nil
}

// PKI returns the certificate authority of a mount.
func (s *Set) PKI(mount string) (*pki.Engine, error) {
	if why, ok := s.Broken[mount]; ok {
		return nil, fault.New(fault.Unavailable, "mount %q did not load: %s", mount, why).WithReason("MOUNT_BROKEN").WithNext("metacrypt doctor")
	}
	e, ok := s.pki[mount]
	if !ok {
		return nil, fault.New(fault.NotFound, "there is no certificate authority %q", mount)
	}
	return e, nil
}

// PKIs returns all certificate authorities.
func (s *Set) PKIs() []*pki.Engine {
	out := make([]*pki.Engine, 0, len(s.pki))
	for _, e := range s.pki {
		out = append(out, e)
	}
	return out
}
