package oidc

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"metacircular.net/mcdsl/auth"
	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"

	"metacircular.net/mcias/internal/account"
	"metacircular.net/mcias/internal/audit"
	"metacircular.net/mcias/internal/opaque"
	"metacircular.net/mcias/internal/session"
	"metacircular.net/mcias/internal/store"
)

// cors admits the registered origins of a spa client and nobody else; never with credentials.
func (p *Provider) cors(w http.ResponseWriter, r *http.Request, c *account.Client) {
	origin := r.Header.Get("Origin")
	w.Header().Add("Vary", "Origin")
	if origin == "" || c == nil || c.Kind != account.KindSPA {
		return
	}
	for _, u := range c.Redirects {
		if o, err := url.Parse(u); err == nil && o.Scheme+"://"+o.Host == origin {
			w.Header().Set("Access-Control-Allow-Origin", origin)
			return
		}
	}
}

// preflight answers for origins of any spa client: a preflight does not say which.
func (p *Provider) preflight(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("Origin")
	w.Header().Add("Vary", "Origin")
	var all []*account.Client
	err := p.DB.Read(r.Context(), func(v *db.View) (err error) {
		all, err = store.Clients(v, "", 10000)
		return err
	})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	for _, c := range all {
		if p.cors(w, r, c); w.Header().Get("Access-Control-Allow-Origin") == origin && origin != "" {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
			w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
			w.Header().Set("Access-Control-Max-Age", "300")
			break
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// access returns the grant and session of an opaque access token; nil = not valid.
func (p *Provider) access(ctx context.Context, text string) (g *store.Grant, live *session.Live, exp time.Time, err error) {
	err = p.DB.Read(ctx, func(v *db.View) error {
		id, e, err := store.AccessByHash(v, opaque.Hash(text))
		if err != nil {
			return err
		}
		if exp = e; !p.Clock.Now().Before(exp) {
			return store.ErrNotFound
		}
		if g, err = store.GrantByID(v, id); err != nil {
			return err
		}
		live, err = p.Sessions.Check(v, g.SID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || fault.HasReason(err, "NO_SESSION") {
		return nil, nil, exp, nil
	}
	return g, live, exp, err
}

// userinfo tells about the person of an access token.
func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	bearer, err := auth.Bearer(r.Header.Values("Authorization"))
	var g *store.Grant
	var live *session.Live
	if err == nil && bearer != "" {
		g, live, _, err = p.access(r.Context(), bearer)
	}
	if err != nil {
		p.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if g == nil {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	c, err := p.client(r.Context(), g.Client)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	p.cors(w, r, c)
	writeJSON(w, http.StatusOK, p.person(live.Account, g.Scopes))
}

// introspect tells a client about its own tokens, and nothing about others'.
func (p *Provider) introspect(w http.ResponseWriter, r *http.Request) {
	v, err := form(r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	c, err := p.caller(r, v, false)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	g, live, exp, err := p.access(r.Context(), v["token"])
	if err != nil {
		p.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if g == nil || g.Client != c.ID {
		writeJSON(w, http.StatusOK, map[string]bool{"active": false})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"active": true, "client_id": g.Client, "sub": live.Account.ID, "username": live.Account.Name,
		"scope": strings.Join(g.Scopes, " "), "token_type": "Bearer", "exp": exp.Unix(), "iss": p.Issuer, "sid": live.SID})
}

// revoke is RFC 7009: a refresh token takes its grant along; an unknown token is answered 200.
func (p *Provider) revoke(w http.ResponseWriter, r *http.Request) {
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
	hash := opaque.Hash(v["token"])
	err = p.DB.Write(r.Context(), func(tx *db.Tx) error {
		id, _, err := store.RefreshByHash(tx, hash)
		if errors.Is(err, store.ErrNotFound) {
			id, _, err = store.AccessByHash(tx, hash)
		}
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		g, err := store.GrantByID(tx, id)
		if err != nil || g.Client != c.ID {
			return err
		}
		return p.kill(tx, id, "revoked by the app")
	})
	if err != nil {
		p.fail(w, r, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

// hint is what a valid id_token_hint says; an expired one is fine.
type hint struct{ sid, client string }

func (p *Provider) hint(text string) (hint, bool) {
	if text == "" || len(text) > 8<<10 {
		return hint{}, false
	}
	t, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(t.Headers) != 1 {
		return hint{}, false
	}
	keys := p.Keys.JWKS()
	for _, k := range keys.Key(t.Headers[0].KeyID) {
		var c struct {
			Iss string       `json:"iss"`
			Aud jwt.Audience `json:"aud"`
			SID string       `json:"sid"`
		}
		if t.Claims(k.Key, &c) == nil && c.Iss == p.Issuer && len(c.Aud) == 1 {
			return hint{sid: c.SID, client: c.Aud[0]}, true
		}
	}
	return hint{}, false
}

// logout is RP-initiated logout: with a valid hint of this browser's session it ends it, otherwise it asks first.
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	v, err := query(r)
	if err != nil {
		p.stop(w, r, nil, err)
		return
	}
	live, err := p.browser(r)
	if err != nil {
		p.pages.Error(w, r, err)
		return
	}
	h, ok := p.hint(v["id_token_hint"])
	if live != nil && (!ok || h.sid != live.SID) {
		p.pages.AskLogout(w, r, r.URL.RawQuery)
		return
	}
	if err := p.end(r, live); err != nil {
		p.pages.Error(w, r, err)
		return
	}
	clearCookie(w)
	target, err := p.afterLogout(r.Context(), v, h, ok)
	switch {
	case err != nil:
		p.pages.Error(w, r, err)
	case target != "":
		http.Redirect(w, r, target, http.StatusSeeOther)
	default:
		p.pages.SignedOut(w, r)
	}
}

// logoutForm is the answer to the question.
func (p *Provider) logoutForm(w http.ResponseWriter, r *http.Request) {
	f, err := form(r)
	if err != nil {
		p.stop(w, r, nil, err)
		return
	}
	raw, err := url.ParseQuery(f["request"])
	if err != nil {
		raw = url.Values{}
	}
	v, err := single(raw)
	if err != nil {
		p.stop(w, r, nil, err)
		return
	}
	live, err := p.browser(r)
	if err == nil {
		err = p.end(r, live)
	}
	if err != nil {
		p.pages.Error(w, r, err)
		return
	}
	clearCookie(w)
	h, ok := p.hint(v["id_token_hint"])
	target, err := p.afterLogout(r.Context(), v, h, ok)
	switch {
	case err != nil:
		p.pages.Error(w, r, err)
	case target != "":
		p.pages.Continue(w, r, target)
	default:
		p.pages.SignedOut(w, r)
	}
}

// end ends the browser's session and so all its grants.
func (p *Provider) end(r *http.Request, live *session.Live) error {
	if live == nil {
		return nil
	}
	now := p.Clock.Now()
	err := p.DB.Write(r.Context(), func(tx *db.Tx) error {
		if err := p.Sessions.End(tx, live.SID); err != nil {
			return err
		}
		return audit.Append(tx, now, audit.By{Name: live.Account.Name, IP: auth.Client(r.Context())}.Record("session.end", live.Account.Name, "sid", live.SID))
	})
	if err == nil {
		p.Hub.Flush(context.WithoutCancel(r.Context()))
	}
	return err
}

func clearCookie(w http.ResponseWriter) {
	http.SetCookie(w, &http.Cookie{Name: Cookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// afterLogout returns the client's registered URI; anything else is ignored.
func (p *Provider) afterLogout(ctx context.Context, v map[string]string, h hint, ok bool) (string, error) {
	uri := v["post_logout_redirect_uri"]
	id := v["client_id"]
	if ok {
		if id != "" && id != h.client {
			return "", nil
		}
		id = h.client
	}
	if uri == "" || id == "" {
		return "", nil
	}
	c, err := p.client(ctx, id)
	if err != nil || c == nil || !slices.Contains(c.PostLogout, uri) {
		return "", err
	}
	if s := v["state"]; s != "" {
		sep := "?"
		if strings.Contains(uri, "?") {
			sep = "&"
		}
		uri += sep + url.Values{"state": {s}}.Encode()
	}
	return uri, nil
}
