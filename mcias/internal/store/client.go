package store

import (
	"time"

	"metacircular.net/mcias/internal/account"
)

const clientCols = `c.id, c.kind, COALESCE(c.owner, ''), COALESCE(a.name, ''), c.secret_hash, c.redirect_uris, c.post_logout_uris, c.tags, c.enabled, c.created`
const clientFrom = ` FROM client c LEFT JOIN account a ON a.id = c.owner `

func scanClient(scan func(...any) error) (*account.Client, error) {
	var c account.Client
	var redirects, logouts, tags string
	var created int64
	err := scan(&c.ID, &c.Kind, &c.Owner, &c.OwnerName, &c.SecretHash, &redirects, &logouts, &tags, &c.Enabled, &created)
	c.Redirects, c.PostLogout, c.Tags, c.Created = unlist(redirects), unlist(logouts), unlist(tags), at(created)
	return &c, err
}

// ClientByID returns a client.
func ClientByID(r Reader, id string) (*account.Client, error) {
	c, err := scanClient(r.QueryRow(`SELECT `+clientCols+clientFrom+`WHERE c.id = ?`, id).Scan)
	return c, one("client", err)
}

// Clients lists clients after an id.
func Clients(r Reader, after string, limit int) ([]*account.Client, error) {
	rows, err := r.Query(`SELECT `+clientCols+clientFrom+`WHERE c.id > ? ORDER BY c.id LIMIT ?`, after, limit)
	return collect(rows, err, scanClient)
}

// InsertClient stores a client.
func InsertClient(w Writer, c *account.Client) error {
	_, err := w.Exec(`INSERT INTO client (id, kind, owner, secret_hash, redirect_uris, post_logout_uris, tags, enabled, created)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, c.ID, c.Kind, null(c.Owner), c.SecretHash, list(c.Redirects), list(c.PostLogout), list(c.Tags), c.Enabled, ms(c.Created))
	return err
}

// UpdateClient stores the three lists.
func UpdateClient(w Writer, c *account.Client) error {
	_, err := w.Exec(`UPDATE client SET redirect_uris = ?, post_logout_uris = ?, tags = ? WHERE id = ?`,
		list(c.Redirects), list(c.PostLogout), list(c.Tags), c.ID)
	return err
}

// SetClientSecret stores the hash of a new secret.
func SetClientSecret(w Writer, id string, hash []byte) error {
	_, err := w.Exec(`UPDATE client SET secret_hash = ? WHERE id = ?`, hash, id)
	return err
}

// SetClientEnabled stores whether anybody may use the client.
func SetClientEnabled(w Writer, id string, on bool) error {
	_, err := w.Exec(`UPDATE client SET enabled = ? WHERE id = ?`, on, id)
	return err
}

// DeleteClient removes a client with its grants.
func DeleteClient(w Writer, id string) error {
	_, err := w.Exec(`DELETE FROM client WHERE id = ?`, id)
	return err
}

const keyCols = `kid, account, pub, services, created, not_after, retired`

func scanServiceKey(scan func(...any) error) (*account.ServiceKey, error) {
	var k account.ServiceKey
	var services string
	var created, notAfter, retired int64
	err := scan(&k.KID, &k.Account, &k.Public, &services, &created, &notAfter, &retired)
	k.Services, k.Created, k.NotAfter, k.Retired = unlist(services), at(created), at(notAfter), at(retired)
	return &k, err
}

// ServiceKeyByKID returns a key.
func ServiceKeyByKID(r Reader, kid string) (*account.ServiceKey, error) {
	k, err := scanServiceKey(r.QueryRow(`SELECT `+keyCols+` FROM service_key WHERE kid = ?`, kid).Scan)
	return k, one("service key", err)
}

// ServiceKeys lists the keys of an account, newest first.
func ServiceKeys(r Reader, accountID string) ([]*account.ServiceKey, error) {
	rows, err := r.Query(`SELECT `+keyCols+` FROM service_key WHERE account = ? ORDER BY created DESC, kid`, accountID)
	return collect(rows, err, scanServiceKey)
}

// InsertServiceKey stores a key.
func InsertServiceKey(w Writer, k *account.ServiceKey) error {
	_, err := w.Exec(`INSERT INTO service_key (`+keyCols+`) VALUES (?, ?, ?, ?, ?, ?, 0)`,
		k.KID, k.Account, k.Public, list(k.Services), ms(k.Created), ms(k.NotAfter))
	return err
}

// RetireServiceKey ends a key; false = it was ended before.
func RetireServiceKey(w Writer, kid string, now time.Time) (bool, error) {
	n, err := changed(w.Exec(`UPDATE service_key SET retired = ? WHERE kid = ? AND retired = 0`, ms(now), kid))
	return n == 1, err
}

// UseAssertion spends an assertion's jti; false = seen before.
func UseAssertion(w Writer, jti string, expires time.Time) (bool, error) {
	n, err := changed(w.Exec(`INSERT INTO assertion_seen (jti, expires) VALUES (?, ?) ON CONFLICT DO NOTHING`, jti, ms(expires)))
	return n == 1, err
}
