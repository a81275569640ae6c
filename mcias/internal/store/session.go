package store

import (
	"strings"
	"time"
)

// Session is a person's sign-in at MCIAS itself.
type Session struct {
	IDHash   []byte
	SID      string
	Account  string // id
	Kind     string // browser or cli
	AMR      []string
	AuthTime time.Time
	IP       string
	UA       string
	Created  time.Time
	LastSeen time.Time
	Expires  time.Time
}

const sessionCols = `id_hash, sid, account, kind, amr, auth_time, ip, ua, created, last_seen, expires`

func scanSession(scan func(...any) error) (*Session, error) {
	var s Session
	var amr string
	var authTime, created, seen, exp int64
	err := scan(&s.IDHash, &s.SID, &s.Account, &s.Kind, &amr, &authTime, &s.IP, &s.UA, &created, &seen, &exp)
	s.AMR, s.AuthTime, s.Created, s.LastSeen, s.Expires = strings.Fields(amr), at(authTime), at(created), at(seen), at(exp)
	return &s, err
}

// SessionByHash returns the session with this secret's hash.
func SessionByHash(r Reader, hash []byte) (*Session, error) {
	s, err := scanSession(r.QueryRow(`SELECT `+sessionCols+` FROM session WHERE id_hash = ?`, hash).Scan)
	return s, one("session", err)
}

// SessionBySID returns the session with this public id.
func SessionBySID(r Reader, sid string) (*Session, error) {
	s, err := scanSession(r.QueryRow(`SELECT `+sessionCols+` FROM session WHERE sid = ?`, sid).Scan)
	return s, one("session", err)
}

// Sessions lists sessions after a sid; account "" = everybody's.
func Sessions(r Reader, account, after string, limit int) ([]*Session, error) {
	rows, err := r.Query(`SELECT `+sessionCols+` FROM session WHERE sid > ? AND (? = '' OR account = ?) ORDER BY sid LIMIT ?`,
		after, account, account, limit)
	return collect(rows, err, scanSession)
}

// InsertSession stores a session.
func InsertSession(w Writer, s *Session) error {
	_, err := w.Exec(`INSERT INTO session (`+sessionCols+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		s.IDHash, s.SID, s.Account, s.Kind, strings.Join(s.AMR, " "), ms(s.AuthTime), s.IP, s.UA, ms(s.Created), ms(s.LastSeen), ms(s.Expires))
	return err
}

// RenewSession gives a session a new secret and new proof; its sid and grants stay.
func RenewSession(w Writer, sid string, hash []byte, amr []string, authTime time.Time, ip string) (bool, error) {
	n, err := changed(w.Exec(`UPDATE session SET id_hash = ?, amr = ?, auth_time = ?, last_seen = ?, ip = ? WHERE sid = ?`,
		hash, strings.Join(amr, " "), ms(authTime), ms(authTime), ip, sid))
	return n == 1, err
}

// TouchSession records activity and, if ip is not empty, the address of an interactive request.
func TouchSession(w Writer, sid, ip string, now time.Time) error {
	_, err := w.Exec(`UPDATE session SET last_seen = ?, ip = CASE WHEN ? = '' THEN ip ELSE ? END WHERE sid = ?`, ms(now), ip, ip, sid)
	return err
}

// DeleteSession removes a session with its grants, codes and tokens.
func DeleteSession(w Writer, sid string) (bool, error) {
	n, err := changed(w.Exec(`DELETE FROM session WHERE sid = ?`, sid))
	return n == 1, err
}

// SessionIDs lists the sids of an account, oldest first.
func SessionIDs(r Reader, account string) ([]string, error) {
	rows, err := r.Query(`SELECT sid FROM session WHERE account = ? ORDER BY created, sid`, account)
	return collect(rows, err, text)
}

// ExpiredSessions lists sids that are over by life or idleness.
func ExpiredSessions(r Reader, now time.Time, idle time.Duration, limit int) ([]string, error) {
	rows, err := r.Query(`SELECT sid FROM session WHERE expires <= ? OR last_seen <= ? LIMIT ?`, ms(now), ms(now.Add(-idle)), limit)
	return collect(rows, err, text)
}

// SetupLink lets an account set its credentials once.
type SetupLink struct {
	Hash    []byte
	Account string
	Purpose string
	Expires time.Time
	Used    time.Time
}

// Purposes of a setup link.
const (
	PurposeFirstAdmin = "first_admin"
	PurposeInvite     = "invite"
	PurposeReset      = "reset"
	PurposeBreakGlass = "break_glass"
)

// InsertSetupLink stores a link.
func InsertSetupLink(w Writer, l *SetupLink) error {
	_, err := w.Exec(`INSERT INTO setup_link (hash, account, purpose, expires) VALUES (?, ?, ?, ?)`, l.Hash, l.Account, l.Purpose, ms(l.Expires))
	return err
}

// SetupLinkByHash returns a link.
func SetupLinkByHash(r Reader, hash []byte) (*SetupLink, error) {
	var l SetupLink
	var exp, used int64
	err := r.QueryRow(`SELECT hash, account, purpose, expires, used FROM setup_link WHERE hash = ?`, hash).
		Scan(&l.Hash, &l.Account, &l.Purpose, &exp, &used)
	l.Expires, l.Used = at(exp), at(used)
	return &l, one("setup link", err)
}

// UseSetupLink spends a link; false = spent or over already.
func UseSetupLink(w Writer, hash []byte, now time.Time) (bool, error) {
	n, err := changed(w.Exec(`UPDATE setup_link SET used = ? WHERE hash = ? AND used = 0 AND expires > ?`, ms(now), hash, ms(now)))
	return n == 1, err
}

// EndSetupLinks spends every open link of an account ("" = those of this purpose everywhere).
func EndSetupLinks(w Writer, account, purpose string, now time.Time) error {
	_, err := w.Exec(`UPDATE setup_link SET used = ? WHERE used = 0 AND (? = '' OR account = ?) AND (? = '' OR purpose = ?)`,
		ms(now), account, account, purpose, purpose)
	return err
}

// EndEverything removes all sessions, grants, codes, tokens and open links, and forgets who watched: for a restore.
func EndEverything(w Writer, now time.Time) error {
	for _, q := range []string{`DELETE FROM session`, `DELETE FROM assertion_seen`, `DELETE FROM watcher`} {
		if _, err := w.Exec(q); err != nil {
			return err
		}
	}
	return EndSetupLinks(w, "", "", now)
}
