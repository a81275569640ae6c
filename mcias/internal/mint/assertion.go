package mint

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/store"
)

// maxAssertion bounds what is parsed.
const maxAssertion = 4096

// Service is a system account that proved one of its keys.
type Service struct {
	Account *account.Account
	Key     *account.ServiceKey
	jti     string
	expires time.Time
}

func errAssertion(why string) error {
	return fault.New(fault.Unauthenticated, "service assertion refused: %s", why).WithReason("BAD_ASSERTION")
}

// Prove verifies a service assertion without spending it.
func (m *Minter) Prove(ctx context.Context, assertion string) (*Service, error) {
	if len(assertion) > maxAssertion || strings.Count(assertion, ".") != 2 {
		return nil, errAssertion("malformed")
	}
	tok, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(tok.Headers) != 1 {
		return nil, errAssertion("malformed")
	}
	h := tok.Headers[0]
	if typ, _ := h.ExtraHeaders[jose.HeaderType].(string); typ != "JWT" || h.JSONWebKey != nil || h.KeyID == "" {
		return nil, errAssertion("header")
	}
	for name := range h.ExtraHeaders {
		if name != jose.HeaderType {
			return nil, errAssertion("header")
		}
	}
	s, err := m.keyOwner(ctx, h.KeyID)
	if err != nil {
		return nil, err
	}
	var c jwt.Claims
	if err := tok.Claims(ed25519.PublicKey(s.Key.Public), &c); err != nil {
		return nil, errAssertion("bad signature")
	}
	now := m.Clock.Now()
	switch {
	case c.Issuer != s.Account.Name || c.Subject != s.Account.Name:
		return nil, errAssertion("iss and sub are not the key's account")
	case len(c.Audience) != 1 || c.Audience[0] != m.Issuer:
		return nil, errAssertion("aud is not " + m.Issuer)
	case c.ID == "" || len(c.ID) > 128 || c.Expiry == nil || c.IssuedAt == nil:
		return nil, errAssertion("jti, iat or exp is missing")
	}
	exp, iat := c.Expiry.Time(), c.IssuedAt.Time()
	switch {
	case !now.Before(exp.Add(5 * time.Second)):
		return nil, errAssertion("expired; check both clocks, here it is " + now.UTC().Format(time.RFC3339))
	case exp.Sub(iat) > assertionLife || exp.Sub(now) > assertionLife+clockLeeway || iat.After(now.Add(clockLeeway)):
		return nil, errAssertion("lives longer than 60 s or begins in the future; here it is " + now.UTC().Format(time.RFC3339))
	}
	s.jti, s.expires = s.Key.KID+":"+c.ID, exp.Add(5*time.Second)
	return s, nil
}

// keyOwner returns the live key and its active account. All failures are told alike.
func (m *Minter) keyOwner(ctx context.Context, kid string) (*Service, error) {
	s := &Service{}
	err := m.DB.Read(ctx, func(v *db.View) (err error) {
		if s.Key, err = store.ServiceKeyByKID(v, kid); err != nil {
			return err
		}
		s.Account, err = store.AccountByID(v, s.Key.Account)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && (s.Account.Status != account.Active || !s.Key.Live(m.Clock.Now())) {
		return nil, errAssertion("unknown or retired key")
	}
	return s, err
}

// Spend makes the assertion single-use.
func (m *Minter) Spend(ctx context.Context, s *Service) error {
	fresh := false
	err := m.DB.Write(ctx, func(tx *db.Tx) (err error) {
		fresh, err = store.UseAssertion(tx, s.jti, s.expires)
		return err
	})
	if err == nil && !fresh {
		err = errAssertion("used before")
	}
	return err
}

// JTI returns the assertion's id and end, for a Watch, which remembers it in memory only.
func (s *Service) JTI() (string, time.Time) { return s.jti, s.expires }

// Still reports whether a service that proved itself may go on: its account is active and its key live.
func (m *Minter) Still(ctx context.Context, s *Service) (*Service, error) {
	return m.keyOwner(ctx, s.Key.KID)
}
