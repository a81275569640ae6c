package store

import (
	"strings"
	"time"
)

// Grant is one app's access within one session.
type Grant struct {
	ID      string
	SID     string
	Account string // id
	Client  string
	Scopes  []string
	Created time.Time
}

const grantCols = `id, sid, account, client, scopes, created`

func scanGrant(scan func(...any) error) (*Grant, error) {
	var g Grant
	var scopes string
	var created int64
	err := scan(&g.ID, &g.SID, &g.Account, &g.Client, &scopes, &created)
	g.Scopes, g.Created = strings.Fields(scopes), at(created)
	return &g, err
}

// InsertGrant stores a grant.
func InsertGrant(w Writer, g *Grant) error {
	_, err := w.Exec(`INSERT INTO oidc_grant (`+grantCols+`) VALUES (?, ?, ?, ?, ?, ?)`, g.ID, g.SID, g.Account, g.Client, strings.Join(g.Scopes, " "), ms(g.Created))
	return err
}

// GrantByID returns a grant.
func GrantByID(r Reader, id string) (*Grant, error) {
	g, err := scanGrant(r.QueryRow(`SELECT `+grantCols+` FROM oidc_grant WHERE id = ?`, id).Scan)
	return g, one("grant", err)
}

// Grants lists the grants of an account ("" = all) or of one session ("" = all).
func Grants(r Reader, accountID, sid string) ([]*Grant, error) {
	rows, err := r.Query(`SELECT `+grantCols+` FROM oidc_grant WHERE (? = '' OR account = ?) AND (? = '' OR sid = ?) ORDER BY created, id`,
		accountID, accountID, sid, sid)
	return collect(rows, err, scanGrant)
}

// DeleteGrant removes a grant with its codes and tokens.
func DeleteGrant(w Writer, id string) (bool, error) {
	n, err := changed(w.Exec(`DELETE FROM oidc_grant WHERE id = ?`, id))
	return n == 1, err
}

// Code is an authorization code.
type Code struct {
	Hash        []byte
	Grant       string
	Client      string
	RedirectURI string
	Challenge   string
	Nonce       string
	Expires     time.Time
	Used        time.Time
}

// InsertCode stores a code.
func InsertCode(w Writer, c *Code) error {
	_, err := w.Exec(`INSERT INTO auth_code (hash, grant_id, client, redirect_uri, challenge, nonce, expires) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		c.Hash, c.Grant, c.Client, c.RedirectURI, c.Challenge, c.Nonce, ms(c.Expires))
	return err
}

// CodeByHash returns a code.
func CodeByHash(r Reader, hash []byte) (*Code, error) {
	var c Code
	var exp, used int64
	err := r.QueryRow(`SELECT hash, grant_id, client, redirect_uri, challenge, nonce, expires, used FROM auth_code WHERE hash = ?`, hash).
		Scan(&c.Hash, &c.Grant, &c.Client, &c.RedirectURI, &c.Challenge, &c.Nonce, &exp, &used)
	c.Expires, c.Used = at(exp), at(used)
	return &c, one("code", err)
}

// UseCode spends a code; false = spent before.
func UseCode(w Writer, hash []byte, now time.Time) (bool, error) {
	n, err := changed(w.Exec(`UPDATE auth_code SET used = ? WHERE hash = ? AND used = 0`, ms(now), hash))
	return n == 1, err
}

// InsertAccess stores an opaque access token.
func InsertAccess(w Writer, hash []byte, grant string, expires time.Time) error {
	_, err := w.Exec(`INSERT INTO access_token (hash, grant_id, expires) VALUES (?, ?, ?)`, hash, grant, ms(expires))
	return err
}

// AccessByHash returns the grant and end of an opaque access token.
func AccessByHash(r Reader, hash []byte) (grant string, expires time.Time, err error) {
	var exp int64
	err = r.QueryRow(`SELECT grant_id, expires FROM access_token WHERE hash = ?`, hash).Scan(&grant, &exp)
	return grant, at(exp), one("access token", err)
}

// InsertRefresh stores a refresh token.
func InsertRefresh(w Writer, hash []byte, grant string, now time.Time) error {
	_, err := w.Exec(`INSERT INTO refresh_token (hash, grant_id, created) VALUES (?, ?, ?)`, hash, grant, ms(now))
	return err
}

// RefreshByHash returns the grant of a refresh token and whether it was used.
func RefreshByHash(r Reader, hash []byte) (grant string, used bool, err error) {
	var at int64
	err = r.QueryRow(`SELECT grant_id, used FROM refresh_token WHERE hash = ?`, hash).Scan(&grant, &at)
	return grant, at != 0, one("refresh token", err)
}

// UseRefresh spends a refresh token; false = spent before.
func UseRefresh(w Writer, hash []byte, now time.Time) (bool, error) {
	n, err := changed(w.Exec(`UPDATE refresh_token SET used = ? WHERE hash = ? AND used = 0`, ms(now), hash))
	return n == 1, err
}

// Consent returns the scopes an account agreed to for a client.
func Consent(r Reader, accountID, client string) ([]string, error) {
	var s string
	err := r.QueryRow(`SELECT scopes FROM consent WHERE account = ? AND client = ?`, accountID, client).Scan(&s)
	return strings.Fields(s), one("consent", err)
}

// GiveConsent stores it.
func GiveConsent(w Writer, accountID, client string, scopes []string, now time.Time) error {
	_, err := w.Exec(`INSERT INTO consent (account, client, scopes, given) VALUES (?, ?, ?, ?)
		ON CONFLICT (account, client) DO UPDATE SET scopes = excluded.scopes, given = excluded.given`, accountID, client, strings.Join(scopes, " "), ms(now))
	return err
}
