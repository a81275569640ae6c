package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/clock"
	"metacircular.net/mcdsl/fault"
)

const (
	maxAnswer     = 1 << 20
	discoveryLife = 5 * time.Minute // as the issuer's max-age says
	keysPause     = 10 * time.Second
	clockLeeway   = time.Minute
)

// provider is MCIAS as an OIDC provider sees it: discovery, code exchange, ID token. Safe for concurrent use.
type provider struct {
	issuer string
	client *http.Client
	clock  clock.Clock

	mu     sync.Mutex // guards what follows
	doc    *discovery
	docAt  time.Time
	keys   *jose.JSONWebKeySet
	keysAt time.Time
}

// discovery is what we need of /.well-known/openid-configuration.
type discovery struct {
	Issuer                string `json:"issuer"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
	EndSessionEndpoint    string `json:"end_session_endpoint"`
	JWKSURI               string `json:"jwks_uri"`
}

// idClaims are the claims of an ID token that the pages use.
type idClaims struct {
	jwt.Claims
	Nonce    string           `json:"nonce"`
	Name     string           `json:"name"`
	User     string           `json:"preferred_username"`
	Email    string           `json:"email"`
	Groups   []string         `json:"groups"`
	AMR      []string         `json:"amr"`
	ACR      string           `json:"acr"`
	AuthTime *jwt.NumericDate `json:"auth_time"`
	SID      string           `json:"sid"`
}

// tokens is the answer of the code exchange.
type tokens struct {
	AccessToken string `json:"access_token"`
	IDToken     string `json:"id_token"`
	TokenType   string `json:"token_type"`
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

func (p *provider) get(ctx context.Context, from string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return away(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return away(err)
	}
	if res.StatusCode != http.StatusOK {
		return away(fmt.Errorf("%s answers %s", from, res.Status))
	}
	if err := json.Unmarshal(body, into); err != nil {
		return away(fmt.Errorf("%s: %w", from, err))
	}
	return nil
}

// away says that signing in has to wait for MCIAS.
func away(err error) error {
	return fault.New(fault.Unavailable, "signing in is not possible: mcias does not answer").WithReason("UNREACHABLE").
		WithNext("mcp status mcias").Wrap(err)
}

// discover returns the provider's addresses, not older than five minutes.
func (p *provider) discover(ctx context.Context) (discovery, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if p.doc != nil && now.Sub(p.docAt) < discoveryLife {
		return *p.doc, nil
	}
	var d discovery
	if err := p.get(ctx, p.issuer+"/.well-known/openid-configuration", &d); err != nil {
		return d, err
	}
	if d.Issuer != p.issuer {
		return d, fault.New(fault.Internal, "the provider at %s calls itself %s", p.issuer, d.Issuer)
	}
	for _, u := range []string{d.AuthorizationEndpoint, d.TokenEndpoint, d.JWKSURI} {
		if !strings.HasPrefix(u, p.issuer+"/") {
			return d, fault.New(fault.Internal, "the provider names an endpoint that is not its own: %s", u)
		}
	}
	p.doc, p.docAt = &d, now
	return d, nil
}

// exchange turns a code into tokens.
func (p *provider) exchange(ctx context.Context, id, secret, code, verifier, redirect string) (tokens, error) {
	d, err := p.discover(ctx)
	if err != nil {
		return tokens{}, err
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return tokens{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	// RFC 6749 section 2.3.1: both parts are form-encoded first.
	req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	res, err := p.client.Do(req)
	if err != nil {
		return tokens{}, away(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return tokens{}, away(err)
	}
	var t tokens
	if err := json.Unmarshal(body, &t); err != nil {
		return tokens{}, away(fmt.Errorf("token endpoint answers %s and no JSON", res.Status))
	}
	switch {
	case res.StatusCode >= 500:
		return tokens{}, away(fmt.Errorf("token endpoint answers %s: %s", res.Status, t.Description))
	case t.Error == "invalid_client":
		return tokens{}, fault.New(fault.Internal, "mcias does not know this service's client").
			Wrap(fmt.Errorf("%s: %s", t.Error, t.Description))
	case t.Error != "":
		return tokens{}, fault.New(fault.Unauthenticated, "the sign-in was not completed; start it once more").
			WithReason("SIGN_IN_FAILED").Wrap(fmt.Errorf("%s: %s", t.Error, t.Description))
	case t.IDToken == "" || t.AccessToken == "":
		return tokens{}, away(errors.New("the token endpoint left out a token"))
	}
	return t, nil
}

// verify checks an ID token: RS256, our issuer, for us, now, and with the nonce of this very sign-in.
func (p *provider) verify(ctx context.Context, raw, clientID, nonce string) (idClaims, error) {
	var c idClaims
	tok, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(tok.Headers) != 1 {
		return c, badIDToken(err)
	}
	key, err := p.key(ctx, tok.Headers[0].KeyID)
	if err != nil {
		return c, err
	}
	if err := tok.Claims(key, &c); err != nil {
		return c, badIDToken(err)
	}
	if c.Expiry == nil || c.IssuedAt == nil || c.Subject == "" {
		return c, badIDToken(errors.New("exp, iat or sub is missing"))
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: p.issuer, AnyAudience: jwt.Audience{clientID}, Time: p.clock.Now()}, clockLeeway)
	if err != nil {
		return c, badIDToken(err)
	}
	if !same(c.Nonce, nonce) {
		return c, badIDToken(errors.New("nonce of another sign-in"))
	}
	return c, nil
}

func badIDToken(err error) error {
	return fault.New(fault.Unauthenticated, "the sign-in was not completed; start it once more").
		WithReason("SIGN_IN_FAILED").Wrap(fmt.Errorf("ID token: %w", err))
}

// key returns the public key with this id; an unknown one makes it look again, at most every ten seconds.
func (p *provider) key(ctx context.Context, kid string) (any, error) {
	d, err := p.discover(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for range 2 {
		if p.keys != nil {
			for _, k := range p.keys.Key(kid) {
				if k.Use != "enc" && k.IsPublic() {
					return k.Key, nil
				}
			}
		}
		if now := p.clock.Now(); p.keys != nil && now.Sub(p.keysAt) < keysPause {
			break
		}
		var set jose.JSONWebKeySet
		if err := p.get(ctx, d.JWKSURI, &set); err != nil {
			return nil, err
		}
		p.keys, p.keysAt = &set, p.clock.Now()
	}
	return nil, badIDToken(fmt.Errorf("no key %q in the provider's set", kid))
}
