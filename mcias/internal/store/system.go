package store

import (
	"database/sql"
	"errors"
	"time"
)

// SigningKey is one of MCIAS's own keys. PrivEnc is nil once the key may sign no more.
type SigningKey struct {
	KID, Alg, Use, State string
	Pub, PrivEnc         []byte
	Created              time.Time
	NotBefore, RetireAt  time.Time
}

// SigningKeys lists all keys, oldest first.
func SigningKeys(r Reader) ([]*SigningKey, error) {
	rows, err := r.Query(`SELECT kid, alg, use, state, pub, priv_enc, created, not_before, retire_at FROM signing_key ORDER BY created, kid`)
	return collect(rows, err, func(scan func(...any) error) (*SigningKey, error) {
		var k SigningKey
		var created, nb, ra int64
		err := scan(&k.KID, &k.Alg, &k.Use, &k.State, &k.Pub, &k.PrivEnc, &created, &nb, &ra)
		k.Created, k.NotBefore, k.RetireAt = at(created), at(nb), at(ra)
		return &k, err
	})
}

// InsertSigningKey stores a key.
func InsertSigningKey(w Writer, k *SigningKey) error {
	_, err := w.Exec(`INSERT INTO signing_key (kid, alg, use, state, pub, priv_enc, created, not_before, retire_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		k.KID, k.Alg, k.Use, k.State, k.Pub, k.PrivEnc, ms(k.Created), ms(k.NotBefore), ms(k.RetireAt))
	return err
}

// MoveSigningKey changes a key's state; gone and compromised keys lose their private half.
func MoveSigningKey(w Writer, kid, state string, retireAt time.Time) error {
	_, err := w.Exec(`UPDATE signing_key SET state = ?, retire_at = ?,
		priv_enc = CASE WHEN ? IN ('gone', 'compromised') THEN NULL ELSE priv_enc END WHERE kid = ?`, state, ms(retireAt), state, kid)
	return err
}

// RuleRow is a stored policy rule.
type RuleRow struct{ ID, Body string }

// PolicyRules returns the operator's rules in order with the newest revision.
func PolicyRules(r Reader) ([]RuleRow, int64, error) {
	rows, err := r.Query(`SELECT id, body FROM policy_rule ORDER BY ord, id`)
	out, err := collect(rows, err, func(scan func(...any) error) (RuleRow, error) {
		var x RuleRow
		err := scan(&x.ID, &x.Body)
		return x, err
	})
	if err != nil {
		return nil, 0, err
	}
	var rev sql.NullInt64
	if err := r.QueryRow(`SELECT max(id) FROM policy_revision`).Scan(&rev); err != nil {
		return nil, 0, err
	}
	return out, rev.Int64, nil
}

// ReplacePolicy stores a whole rule set as a new revision.
func ReplacePolicy(w Writer, rules []RuleRow, author string, diff []string, now time.Time) (int64, error) {
	if _, err := w.Exec(`DELETE FROM policy_rule`); err != nil {
		return 0, err
	}
	for i, r := range rules {
		if _, err := w.Exec(`INSERT INTO policy_rule (id, ord, body) VALUES (?, ?, ?)`, r.ID, i, r.Body); err != nil {
			return 0, err
		}
	}
	var rev int64
	err := w.QueryRow(`INSERT INTO policy_revision (author, ts, diff) VALUES (?, ?, ?) RETURNING id`, author, ms(now), list(diff)).Scan(&rev)
	return rev, err
}

// Revision is one published policy.
type Revision struct {
	ID     int64
	Author string
	Time   time.Time
	Diff   []string
}

// Revisions lists revisions below an id, newest first.
func Revisions(r Reader, below int64, limit int) ([]Revision, error) {
	rows, err := r.Query(`SELECT id, author, ts, diff FROM policy_revision WHERE id < ? ORDER BY id DESC LIMIT ?`, below, limit)
	return collect(rows, err, func(scan func(...any) error) (Revision, error) {
		var v Revision
		var ts int64
		var diff string
		err := scan(&v.ID, &v.Author, &ts, &diff)
		v.Time, v.Diff = at(ts), unlist(diff)
		return v, err
	})
}

// Revocation is one row of the log.
type Revocation struct {
	Seq     int64
	Kind    string
	Value   string
	Aud     string
	Bound   int64
	Created time.Time
	Expires time.Time
}

// InsertRevocation appends a row and returns its number.
func InsertRevocation(w Writer, v Revocation) (seq int64, err error) {
	err = w.QueryRow(`INSERT INTO revocation (kind, value, aud, bound, created, expires) VALUES (?, ?, ?, ?, ?, ?) RETURNING seq`,
		v.Kind, v.Value, v.Aud, v.Bound, ms(v.Created), ms(v.Expires)).Scan(&seq)
	return seq, err
}

// Revocations lists live rows after a number, in order.
func Revocations(r Reader, after int64, now time.Time, limit int) ([]Revocation, error) {
	rows, err := r.Query(`SELECT seq, kind, value, aud, bound, created, expires FROM revocation WHERE seq > ? AND expires > ? ORDER BY seq LIMIT ?`,
		after, ms(now), limit)
	return collect(rows, err, func(scan func(...any) error) (Revocation, error) {
		var v Revocation
		var created, exp int64
		err := scan(&v.Seq, &v.Kind, &v.Value, &v.Aud, &v.Bound, &created, &exp)
		v.Created, v.Expires = at(created), at(exp)
		return v, err
	})
}

// LastSeq returns the newest number ever given out, also when its row is gone.
func LastSeq(r Reader) (seq int64, err error) {
	err = r.QueryRow(`SELECT seq FROM sqlite_sequence WHERE name = 'revocation'`).Scan(&seq)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return seq, err
}

// Watcher is one instance of a service that watches.
type Watcher struct {
	Service, Instance string
	Seq               int64
	LastSeen          time.Time
}

// SetWatcher records what an instance acknowledged.
func SetWatcher(w Writer, v Watcher) error {
	_, err := w.Exec(`INSERT INTO watcher (service, instance, seq, last_seen) VALUES (?, ?, ?, ?)
		ON CONFLICT (service, instance) DO UPDATE SET seq = excluded.seq, last_seen = excluded.last_seen`, v.Service, v.Instance, v.Seq, ms(v.LastSeen))
	return err
}

// Watchers lists instances seen since then.
func Watchers(r Reader, since time.Time) ([]Watcher, error) {
	rows, err := r.Query(`SELECT service, instance, seq, last_seen FROM watcher WHERE last_seen >= ? ORDER BY service, instance`, ms(since))
	return collect(rows, err, func(scan func(...any) error) (Watcher, error) {
		var v Watcher
		var seen int64
		err := scan(&v.Service, &v.Instance, &v.Seq, &seen)
		v.LastSeen = at(seen)
		return v, err
	})
}

// AuditRow is one record of the chain.
type AuditRow struct {
	Seq                                int64
	Time                               time.Time
	Actor, Action, Target, IP, Outcome string
	Detail                             string // canonical JSON object of strings
	Prev, Hash                         []byte
}

const auditCols = `seq, ts, actor, action, target, ip, outcome, detail, prev, hash`

func scanAudit(scan func(...any) error) (AuditRow, error) {
	var a AuditRow
	var ts int64
	err := scan(&a.Seq, &ts, &a.Actor, &a.Action, &a.Target, &a.IP, &a.Outcome, &a.Detail, &a.Prev, &a.Hash)
	a.Time = at(ts)
	return a, err
}

// AuditHead returns the newest record; ErrNotFound on an empty chain.
func AuditHead(r Reader) (AuditRow, error) {
	a, err := scanAudit(r.QueryRow(`SELECT ` + auditCols + ` FROM audit ORDER BY seq DESC LIMIT 1`).Scan)
	return a, one("audit record", err)
}

// InsertAudit appends a record.
func InsertAudit(w Writer, a AuditRow) error {
	_, err := w.Exec(`INSERT INTO audit (`+auditCols+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		a.Seq, ms(a.Time), a.Actor, a.Action, a.Target, a.IP, a.Outcome, a.Detail, a.Prev, a.Hash)
	return err
}

// AuditFilter narrows a list; empty fields match all.
type AuditFilter struct {
	Actor, Action, Target string
	Since                 time.Time
}

// AuditPage lists records below a number, newest first.
func AuditPage(r Reader, f AuditFilter, below int64, limit int) ([]AuditRow, error) {
	rows, err := r.Query(`SELECT `+auditCols+` FROM audit WHERE seq < ? AND (? = '' OR actor = ?) AND (? = '' OR action = ?)
		AND (? = '' OR target = ?) AND ts >= ? ORDER BY seq DESC LIMIT ?`,
		below, f.Actor, f.Actor, f.Action, f.Action, f.Target, f.Target, ms(f.Since), limit)
	return collect(rows, err, scanAudit)
}

// AuditFrom lists records after a number in order, for verification.
func AuditFrom(r Reader, after int64, limit int) ([]AuditRow, error) {
	rows, err := r.Query(`SELECT `+auditCols+` FROM audit WHERE seq > ? ORDER BY seq LIMIT ?`, after, limit)
	return collect(rows, err, scanAudit)
}
