package mint

import (
	"context"
	"strings"
	"sync"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/fault"
)

// Checker verifies platform tokens for any audience, as their own service would: one mcdsl/auth verifier for each,
// fed by the hub of this process. Safe for concurrent use.
type Checker struct {
	cfg Config
	mu  sync.Mutex // guards all
	all map[string]*auth.Verifier
}

// maxCheckers bounds the verifiers; audiences are services, of which there are few.
const maxCheckers = 64

func newChecker(cfg Config) *Checker { return &Checker{cfg: cfg, all: map[string]*auth.Verifier{}} }

// Checker returns the verifier of tokens for other audiences.
func (m *Minter) Checker() *Checker { return m.checker }

// Verify returns the caller that a token for a service stands for.
func (c *Checker) Verify(ctx context.Context, service, token string) (auth.Caller, error) {
	v, err := c.verifier(ctx, service)
	if err != nil {
		return auth.Caller{}, err
	}
	return v.Verify(token)
}

func (c *Checker) verifier(ctx context.Context, service string) (*auth.Verifier, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.all[service]; v != nil {
		return v, nil
	}
	if len(c.all) >= maxCheckers {
		return nil, fault.New(fault.Exhausted, "tokens for too many services were asked about")
	}
	src := &auth.LocalSource{}
	if err := c.cfg.Hub.AddLocal(ctx, src); err != nil {
		return nil, err
	}
	v, err := auth.New(auth.Config{Service: service, Issuer: c.cfg.Issuer, Source: src, Clock: c.cfg.Clock, Log: c.cfg.Log})
	if err == nil {
		c.all[service] = v
	}
	return v, err
}

// Audiences reads for whom a token says it is, unverified: only to choose the verifier.
func Audiences(token string) ([]string, string) {
	if len(token) > auth.MaxToken || strings.Count(token, ".") != 2 {
		return nil, ""
	}
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(t.Headers) != 1 {
		return nil, ""
	}
	var c jwt.Claims
	if err := t.UnsafeClaimsWithoutVerification(&c); err != nil {
		return nil, ""
	}
	return c.Audience, t.Headers[0].KeyID
}
