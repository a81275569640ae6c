package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4/json"

	"metacircular.net/mcdsl/db"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/authn"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/policy"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
	"metacircular.net/mcias/internal/token"
)

var errGrant = bad("invalid_grant", "the code or token is unknown, used or over")

// dummy is what the secret of an unknown client is compared with, so that it costs the same.
var dummy = make([]byte, sha256.Size)

// caller authenticates the client of a back-channel request: Basic, post or, for public kinds, nothing.
func (p *Provider) caller(r *http.Request, v map[string]string, publicToo bool) (*account.Client, error) {
	refused := &oauthError{http.StatusUnauthorized, "invalid_client", "unknown client or wrong secret"}
	id, secret := v["client_id"], v["client_secret"]
	auths := r.Header.Values("Authorization")
	if len(auths) > 1 {
		return nil, refused
	}
	if len(auths) == 1 {
		user, pass, ok := r.BasicAuth()
		if !ok || secret != "" {
			return nil, refused
		}
		// RFC 6749 wants both form-encoded. Ids and secrets are URL-safe, so decoding changes nothing for clients that don't.
		user, err1 := url.QueryUnescape(user)
		pass, err2 := url.QueryUnescape(pass)
		if err1 != nil || err2 != nil || id != "" && id != user {
			return nil, refused
		}
		id, secret = user, pass
	}
	c, err := p.client(r.Context(), id)
	if err != nil {
		return nil, err
	}
	if c != nil && c.Public() {
		if publicToo && secret == "" && len(auths) == 0 {
			return c, nil
		}
		return nil, refused
	}
	want := dummy
	if c != nil && len(c.SecretHash) == sha256.Size {
		want = c.SecretHash
	}
	if !opaque.Equal(secret, want) || c == nil {
		return nil, refused
	}
	return c, nil
}

// token is the token endpoint.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	v, err := form(r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	c, err := p.caller(r, v, true)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.cors(w, r, c)
	if err := p.CheckClock(); err != nil {
		p.fail(w, r, err)
		return
	}
	var out *answer
	switch v["grant_type"] {
	case "authorization_code":
		out, err = p.exchange(r.Context(), c, v)
	case "refresh_token":
		out, err = p.refresh(r.Context(), c, v)
	default:
		err = bad("unsupported_grant_type", "only authorization_code and refresh_token are supported")
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Pragma", "no-cache")
	writeJSON(w, http.StatusOK, out)
}

// answer is the reply of the token endpoint.
type answer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int    `json:"expires_in"`
	IDToken      string `json:"id_token"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope"`
}

// fresh holds the secrets of one answer, made outside the transaction, which may run twice.
type fresh struct {
	access, refresh         string
	accessHash, refreshHash []byte
}

func newFresh() fresh {
	var f fresh
	f.access, f.accessHash = opaque.New()
	f.refresh, f.refreshHash = opaque.New()
	return f
}

// exchange turns a code into tokens, once. A second use kills the grant and what it gave; that kill is committed with
// the refusal.
func (p *Provider) exchange(ctx context.Context, c *account.Client, v map[string]string) (*answer, error) {
	hash := opaque.Hash(v["code"])
	f := newFresh()
	var g *store.Grant
	var live *session.Live
	var nonce string
	var refused error
	err := p.DB.Write(ctx, func(tx *db.Tx) error {
		refused = nil
		code, err := store.CodeByHash(tx, hash)
		if errors.Is(err, store.ErrNotFound) || err == nil && code.Client != c.ID {
			refused = errGrant
			return nil
		}
		if err != nil {
			return err
		}
		if !code.Used.IsZero() {
			refused = errGrant
			return p.kill(tx, code.Grant, "code used twice")
		}
		if refused = judge(p, code, v); refused != nil {
			return nil
		}
		did, err := store.UseCode(tx, hash, p.Clock.Now())
		if err != nil {
			return err
		}
		if !did {
			refused = errGrant
			return nil
		}
		if g, live, refused, err = p.open(tx, code.Grant); err != nil || refused != nil {
			return err
		}
		nonce = code.Nonce
		return p.insert(tx, f, g)
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, err
	}
	return p.reply(c, g, live, f, nonce)
}

// judge compares what was shown with what the code was given for.
func judge(p *Provider, code *store.Code, v map[string]string) error {
	if !p.Clock.Now().Before(code.Expires) || v["redirect_uri"] != code.RedirectURI || !pkce(v["code_verifier"], code.Challenge) {
		return errGrant
	}
	return nil
}

// pkce verifies a verifier (RFC 7636 section 4.6).
func pkce(verifier, challenge string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// open returns a grant with its live session.
func (p *Provider) open(tx *db.Tx, id string) (*store.Grant, *session.Live, error, error) {
	g, err := store.GrantByID(tx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, errGrant, nil
	}
	if err != nil {
		return nil, nil, nil, err
	}
	live, err := p.Sessions.Check(tx, g.SID)
	if err != nil {
		return nil, nil, errGrant, nil //nolint:nilerr // told as a refusal
	}
	return g, live, nil, nil
}

func (p *Provider) insert(tx *db.Tx, f fresh, g *store.Grant) error {
	now := p.Clock.Now()
	if err := store.InsertAccess(tx, f.accessHash, g.ID, now.Add(accessLife)); err != nil {
		return err
	}
	if !slices.Contains(g.Scopes, "offline_access") {
		return nil
	}
	return store.InsertRefresh(tx, f.refreshHash, g.ID, now)
}

// kill removes a grant with everything of it, and says why in audit.
func (p *Provider) kill(tx *db.Tx, grant, why string) error {
	g, err := store.GrantByID(tx, grant)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := store.DeleteGrant(tx, grant); err != nil {
		return err
	}
	a, err := store.AccountByID(tx, g.Account)
	if err != nil {
		return err
	}
	r := audit.By{Name: a.Name}.Record("grant.kill", g.Client, "why", why, "sid", g.SID)
	r.Outcome = audit.Denied
	return audit.Append(tx, p.Clock.Now(), r)
}

// refresh rotates a refresh token. One that was used before kills its family, with no grace period.
func (p *Provider) refresh(ctx context.Context, c *account.Client, v map[string]string) (*answer, error) {
	hash := opaque.Hash(v["refresh_token"])
	f := newFresh()
	var g *store.Grant
	var live *session.Live
	var refused error
	err := p.DB.Write(ctx, func(tx *db.Tx) error {
		refused = nil
		id, used, err := store.RefreshByHash(tx, hash)
		if errors.Is(err, store.ErrNotFound) {
			refused = errGrant
			return nil
		}
		if err != nil {
			return err
		}
		if g, live, refused, err = p.open(tx, id); err != nil || refused != nil {
			return err
		}
		if g.Client != c.ID {
			refused = errGrant
			return nil
		}
		if used {
			refused = errGrant
			return p.kill(tx, id, "refresh token used twice")
		}
		if refused = p.mayRefresh(c, g, live, v["scope"]); refused != nil {
			return nil
		}
		now := p.Clock.Now()
		did, err := store.UseRefresh(tx, hash, now)
		if err != nil {
			return err
		}
		if !did {
			refused = errGrant
			return p.kill(tx, id, "refresh token used twice")
		}
		if err := store.TouchSession(tx, live.SID, "", now); err != nil {
			return err
		}
		return p.insert(tx, f, g)
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return nil, err
	}
	return p.reply(c, g, live, f, "")
}

// mayRefresh asks policy, with the address of the session's last interactive request.
func (p *Provider) mayRefresh(c *account.Client, g *store.Grant, live *session.Live, scope string) error {
	for s := range strings.FieldsSeq(scope) {
		if !slices.Contains(g.Scopes, s) {
			return bad("invalid_scope", "the grant does not hold this scope")
		}
	}
	d := p.decide(live.Account, c, live.AMR, live.AuthTime, live.Addr())
	if d.Outcome == policy.OutcomeAllow {
		return nil
	}
	return authn.Refusal(d, live.Account.Name, c.ID)
}

// idClaims are those of the ID token and, without the token's own, of userinfo.
type idClaims struct {
	Iss      string   `json:"iss,omitempty"`
	Sub      string   `json:"sub"`
	Aud      string   `json:"aud,omitempty"`
	Exp      int64    `json:"exp,omitempty"`
	Iat      int64    `json:"iat,omitempty"`
	AuthTime int64    `json:"auth_time,omitempty"`
	Nonce    string   `json:"nonce,omitempty"`
	ACR      string   `json:"acr,omitempty"`
	AMR      []string `json:"amr,omitempty"`
	SID      string   `json:"sid,omitempty"`
	AtHash   string   `json:"at_hash,omitempty"`
	Name     string   `json:"name,omitempty"`
	Username string   `json:"preferred_username,omitempty"`
	Email    string   `json:"email,omitempty"`
	Verified bool     `json:"email_verified,omitempty"`
	Groups   []string `json:"groups,omitempty"`
}

// person fills in what the scopes allow. An address made of the name is sent as verified too: only admins set it, and
// common clients refuse a login without one.
func (p *Provider) person(a *account.Account, granted []string) idClaims {
	c := idClaims{Sub: a.ID}
	if slices.Contains(granted, "profile") {
		c.Username, c.Name = a.Name, a.Display
		if c.Name == "" {
			c.Name = a.Name
		}
	}
	if slices.Contains(granted, "email") {
		c.Email, c.Verified = p.Directory.Email(a), true
	}
	if slices.Contains(granted, "groups") {
		c.Groups = append(slices.Clone(a.Roles), a.Tags...)
	}
	return c
}

// reply signs the ID token and writes the answer down. It runs after COMMIT.
func (p *Provider) reply(c *account.Client, g *store.Grant, live *session.Live, f fresh, nonce string) (*answer, error) {
	now := p.Clock.Now()
	id := p.person(live.Account, g.Scopes)
	id.Iss, id.Aud, id.Iat, id.Exp = p.Issuer, c.ID, now.Unix(), now.Add(idLife).Unix()
	id.AuthTime, id.Nonce, id.ACR, id.AMR, id.SID, id.AtHash = live.AuthTime.Unix(), nonce, acr(live.AMR), live.AMR, live.SID, halfHash(f.access)
	payload, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	signed, err := p.Keys.Sign(token.OIDC, payload)
	if err != nil {
		return nil, err
	}
	out := &answer{AccessToken: f.access, TokenType: "Bearer", ExpiresIn: int(accessLife.Seconds()), IDToken: signed, Scope: strings.Join(g.Scopes, " ")}
	if slices.Contains(g.Scopes, "offline_access") {
		out.RefreshToken = f.refresh
	}
	return out, nil
}
