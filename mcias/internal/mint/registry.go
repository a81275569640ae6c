package mint

import (
	"context"
	"time"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/policy"
)

// registry is the audience of registry tokens.
const registry = "mcr"

// minLeft is how long a presented token must still live.
const minLeft = 60 * time.Second

// ForRegistry makes a registry token from a name and a secret: a platform token for mcr of that account, or the
// account's password. A password counts only where policy is content with a password alone.
func (m *Minter) ForRegistry(ctx context.Context, an *authn.Authn, at authn.Attempt, scopes []auth.Scope) (*Minted, error) {
	opt := Options{Access: scopes, Scoped: true, ClientKind: policy.KindRegistry, Life: RegistryLife}
	if looksLikeToken(at.Password) {
		sub, err := m.presented(ctx, at)
		if err != nil {
			return nil, err
		}
		return m.registryMint(ctx, sub, opt)
	}
	if err := m.CheckClock(); err != nil {
		return nil, err
	}
	a, err := an.Password(ctx, at)
	if err != nil {
		return nil, err
	}
	return m.registryMint(ctx, Subject{Account: a, SID: opaque.ID(), AMR: []string{"pwd"}, AuthTime: m.Clock.Now(), IP: at.IP}, opt)
}

// registryMint mints; a denial or an obligation the secret cannot meet names the ways that work.
func (m *Minter) registryMint(ctx context.Context, s Subject, opt Options) (*Minted, error) {
	out, err := m.Mint(ctx, s, []string{registry}, opt)
	if fault.HasReason(err, "STEP_UP_REQUIRED") || fault.HasReason(err, "POLICY_DENIED") {
		return nil, fault.New(fault.Denied, "the login policy does not let %s use the registry this way", s.Account.Name).
			WithReason("POLICY_DENIED").WithNext("use an access key for mcr, or let docker use `mcr docker-helper`").Wrap(err)
	}
	return out, err
}

// presented turns a platform token for mcr into its subject.
func (m *Minter) presented(ctx context.Context, at authn.Attempt) (Subject, error) {
	c, err := m.checker.Verify(ctx, registry, at.Password)
	if err != nil {
		return Subject{}, err
	}
	switch {
	case c.Scoped():
		return Subject{}, fault.New(fault.Unauthenticated, "a registry token cannot be presented for another").WithReason("INVALID_TOKEN")
	case c.Name != account.CanonicalName(at.Name):
		return Subject{}, fault.New(fault.Unauthenticated, "the token is not that account's").WithReason("INVALID_TOKEN")
	case c.Expires.Sub(m.Clock.Now()) < minLeft:
		return Subject{}, fault.New(fault.Unauthenticated, "the token is about to expire").WithReason("INVALID_TOKEN").WithNext("get a new one")
	}
	sub, err := m.subjectOfToken(ctx, c, at.IP)
	sub.IP = at.IP // the person's own client shows it
	return sub, err
}

// looksLikeToken tells a JWT from a password: both would be verified, but a token must not enter pool and throttle.
func looksLikeToken(s string) bool {
	aud, _ := Audiences(s)
	return len(aud) > 0
}
