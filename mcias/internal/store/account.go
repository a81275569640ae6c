package store

import (
	"database/sql"
	"time"

	"metacircular.net/mcias/internal/account"
)

const accountCols = `id, name, display, COALESCE(email, ''), type, status, epoch, created, last_login`

func scanAccount(scan func(...any) error) (*account.Account, error) {
	var a account.Account
	var created, last int64
	err := scan(&a.ID, &a.Name, &a.Display, &a.Email, &a.Type, &a.Status, &a.Epoch, &created, &last)
	a.Created, a.LastLogin = at(created), at(last)
	return &a, err
}

func withSets(r Reader, a *account.Account) (*account.Account, error) {
	var err error
	rows, qerr := r.Query(`SELECT role FROM account_role WHERE account = ? ORDER BY role`, a.ID)
	if a.Roles, err = collect(rows, qerr, text); err != nil {
		return nil, err
	}
	rows, qerr = r.Query(`SELECT tag FROM account_tag WHERE account = ? ORDER BY tag`, a.ID)
	if a.Tags, err = collect(rows, qerr, text); err != nil {
		return nil, err
	}
	return a, nil
}

// AccountByName returns an account by its canonical name, deleted ones too.
func AccountByName(r Reader, name string) (*account.Account, error) {
	a, err := scanAccount(r.QueryRow(`SELECT `+accountCols+` FROM account WHERE name = ?`, name).Scan)
	if err = one("account", err); err != nil {
		return nil, err
	}
	return withSets(r, a)
}

// AccountByID returns an account by its id.
func AccountByID(r Reader, id string) (*account.Account, error) {
	a, err := scanAccount(r.QueryRow(`SELECT `+accountCols+` FROM account WHERE id = ?`, id).Scan)
	if err = one("account", err); err != nil {
		return nil, err
	}
	return withSets(r, a)
}

// Accounts lists accounts after a name, at most limit. typ "" = both.
func Accounts(r Reader, after, typ string, deleted bool, limit int) ([]*account.Account, error) {
	rows, err := r.Query(`SELECT `+accountCols+` FROM account
		WHERE name > ? AND (? = '' OR type = ?) AND (? OR status <> 'deleted') ORDER BY name LIMIT ?`, after, typ, typ, deleted, limit)
	out, err := collect(rows, err, scanAccount)
	if err != nil {
		return nil, err
	}
	for _, a := range out {
		if _, err := withSets(r, a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// AccountsWithRole lists active accounts that carry a role.
func AccountsWithRole(r Reader, role string) ([]*account.Account, error) {
	rows, err := r.Query(`SELECT `+accountCols+` FROM account WHERE status = 'active'
		AND id IN (SELECT account FROM account_role WHERE role = ?) ORDER BY name`, role)
	out, err := collect(rows, err, scanAccount)
	if err != nil {
		return nil, err
	}
	for _, a := range out {
		if _, err := withSets(r, a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// CountAccounts returns how many accounts there are, deleted ones included.
func CountAccounts(r Reader) (n int, err error) {
	err = r.QueryRow(`SELECT count(*) FROM account`).Scan(&n)
	return n, err
}

// InsertAccount stores a new account with its roles and tags.
func InsertAccount(w Writer, a *account.Account) error {
	_, err := w.Exec(`INSERT INTO account (id, name, display, email, type, status, epoch, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		a.ID, a.Name, a.Display, null(a.Email), a.Type, a.Status, a.Epoch, ms(a.Created))
	if err != nil {
		return err
	}
	for _, r := range a.Roles {
		if _, err := AddRole(w, a.ID, r); err != nil {
			return err
		}
	}
	return SetTags(w, a.ID, a.Tags)
}

func null(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// UpdateAccount stores display name and e-mail.
func UpdateAccount(w Writer, id, display, email string) error {
	_, err := w.Exec(`UPDATE account SET display = ?, email = ? WHERE id = ?`, display, null(email), id)
	return err
}

// EmailTaken reports whether another account has the address.
func EmailTaken(r Reader, email, exceptID string) (bool, error) {
	var n int
	err := r.QueryRow(`SELECT count(*) FROM account WHERE email = ? AND id <> ?`, email, exceptID).Scan(&n)
	return n > 0, err
}

// SetStatus stores the status.
func SetStatus(w Writer, id, status string) error {
	_, err := w.Exec(`UPDATE account SET status = ? WHERE id = ?`, status, id)
	return err
}

// RaiseEpoch adds one to the account's epoch and returns the new one: tokens with a smaller ep are dead.
func RaiseEpoch(w Writer, id string) (epoch int64, err error) {
	err = w.QueryRow(`UPDATE account SET epoch = epoch + 1 WHERE id = ? RETURNING epoch`, id).Scan(&epoch)
	return epoch, one("account", err)
}

// AddRole gives a role; false = it was there.
func AddRole(w Writer, id, role string) (bool, error) {
	n, err := changed(w.Exec(`INSERT INTO account_role (account, role) VALUES (?, ?) ON CONFLICT DO NOTHING`, id, role))
	return n == 1, err
}

// RemoveRole takes a role; false = it was not there.
func RemoveRole(w Writer, id, role string) (bool, error) {
	n, err := changed(w.Exec(`DELETE FROM account_role WHERE account = ? AND role = ?`, id, role))
	return n == 1, err
}

// SetTags replaces the tags.
func SetTags(w Writer, id string, tags []string) error {
	if _, err := w.Exec(`DELETE FROM account_tag WHERE account = ?`, id); err != nil {
		return err
	}
	for _, t := range tags {
		if _, err := w.Exec(`INSERT INTO account_tag (account, tag) VALUES (?, ?)`, id, t); err != nil {
			return err
		}
	}
	return nil
}

// TouchLogin records a complete sign-in.
func TouchLogin(w Writer, id string, now time.Time) error {
	_, err := w.Exec(`UPDATE account SET last_login = ? WHERE id = ?`, ms(now), id)
	return err
}

// Password returns the PHC string, ErrNotFound if there is none.
func Password(r Reader, id string) (phc string, err error) {
	err = r.QueryRow(`SELECT phc FROM password WHERE account = ?`, id).Scan(&phc)
	return phc, one("password", err)
}

// SetPassword stores the PHC string.
func SetPassword(w Writer, id, phc string, now time.Time) error {
	_, err := w.Exec(`INSERT INTO password (account, phc, changed) VALUES (?, ?, ?)
		ON CONFLICT (account) DO UPDATE SET phc = excluded.phc, changed = excluded.changed`, id, phc, ms(now))
	return err
}

// DeletePassword removes the password.
func DeletePassword(w Writer, id string) error {
	_, err := w.Exec(`DELETE FROM password WHERE account = ?`, id)
	return err
}
