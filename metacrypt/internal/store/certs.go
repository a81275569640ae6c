package store

import (
	"errors"
	"fmt"
	"strings"

	"metacircular.net/mcdsl/db"
)

// Issuer is a row of issuers; the root is one of them.
type Issuer struct {
	MountID   []byte
	Name      string
	State     string // root, active or retired
	DER       []byte
	CreatedAt int64
	MAC       []byte
}

// Issuers returns root and issuers, oldest first.
func Issuers(q db.Queryer, mountID []byte) ([]Issuer, error) {
	rows, err := q.Query(`SELECT mount_id, name, state, der, created_at, mac FROM issuers WHERE mount_id = ? ORDER BY created_at, name LIMIT 200`, mountID)
	if err != nil {
		return nil, fmt.Errorf("read issuers: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []Issuer
	for rows.Next() {
		var i Issuer
		if err := rows.Scan(&i.MountID, &i.Name, &i.State, &i.DER, &i.CreatedAt, &i.MAC); err != nil {
			return nil, fmt.Errorf("read issuers: %w", err)
		}
		out = append(out, i)
	}
	return out, rows.Err()
}

// PutIssuer inserts an issuer, or replaces state and MAC.
func PutIssuer(tx *db.Tx, i Issuer) error {
	_, err := tx.Exec(`INSERT INTO issuers(mount_id, name, state, der, created_at, mac) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT(mount_id, name) DO UPDATE SET state = excluded.state, mac = excluded.mac`, i.MountID, i.Name, i.State, i.DER, i.CreatedAt, i.MAC)
	return err
}

// Cert is a row of certs.
type Cert struct {
	Serial              string
	MountID             []byte
	Issuer, Profile     string
	SPKIHash            []byte
	SANs                []string
	NotBefore, NotAfter int64 // Unix seconds
	Requester           string
	Replaces            string
	RevokedAt           int64 // Unix seconds, 0 = not
	Reason              int
	Seq                 int64
	MAC                 []byte
	DER                 []byte
	ReplacedBy          string // newest successor, on reads
}

const certColumns = `serial, mount_id, issuer, profile, spki_hash, sans, not_before, not_after, requester, replaces, revoked_at, reason, seq, mac, der,
	coalesce((SELECT s.serial FROM certs s WHERE s.replaces = certs.serial ORDER BY s.seq DESC LIMIT 1), '')`

func scanCert(scan func(...any) error) (Cert, error) {
	var c Cert
	var sans string
	err := scan(&c.Serial, &c.MountID, &c.Issuer, &c.Profile, &c.SPKIHash, &sans, &c.NotBefore, &c.NotAfter, &c.Requester, &c.Replaces,
		&c.RevokedAt, &c.Reason, &c.Seq, &c.MAC, &c.DER, &c.ReplacedBy)
	c.SANs = strings.Fields(sans)
	return c, err
}

// PutCert inserts a certificate.
func PutCert(tx *db.Tx, c Cert) error {
	_, err := tx.Exec(`INSERT INTO certs(serial, mount_id, issuer, profile, spki_hash, sans, not_before, not_after, requester, replaces, seq, mac, der)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(seq), 0) + 1 FROM certs), ?, ?)`,
		c.Serial, c.MountID, c.Issuer, c.Profile, c.SPKIHash, strings.Join(c.SANs, " "), c.NotBefore, c.NotAfter, c.Requester, c.Replaces, c.MAC, c.DER)
	return err
}

// GetCert returns a certificate, or false.
func GetCert(q db.Queryer, mountID []byte, serial string) (Cert, bool, error) {
	c, err := scanCert(q.QueryRow(`SELECT `+certColumns+` FROM certs WHERE mount_id = ? AND serial = ?`, mountID, serial).Scan)
	if errors.Is(err, db.ErrNoRows) {
		return Cert{}, false, nil
	}
	if err != nil {
		return Cert{}, false, fmt.Errorf("read certificate: %w", err)
	}
	return c, true, nil
}

// ListCerts returns certificates before a sequence number, newest first. live = neither expired at now, revoked nor replaced.
func ListCerts(q db.Queryer, mountID []byte, before int64, search string, live bool, now int64, limit int) ([]Cert, error) {
	query := `SELECT ` + certColumns + ` FROM certs WHERE mount_id = ? AND seq < ? AND instr(sans, ?) > 0`
	args := []any{mountID, before, search}
	if live {
		query += ` AND not_after > ? AND revoked_at = 0 AND NOT EXISTS (SELECT 1 FROM certs s WHERE s.replaces = certs.serial)`
		args = append(args, now)
	}
	rows, err := q.Query(query+` ORDER BY seq DESC LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list certificates: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var out []Cert
	for rows.Next() {
		c, err := scanCert(rows.Scan)
		if err != nil {
			return nil, fmt.Errorf("list certificates: %w", err)
		}
		out = append(out, c)
	}
	return out, rows.Err()
}

// CountSuccessors returns how many certificates replaced this one.
func CountSuccessors(q db.Queryer, serial string) (int, error) {
	var n int
	if err := q.QueryRow(`SELECT count(*) FROM certs WHERE replaces = ?`, serial).Scan(&n); err != nil {
		return 0, fmt.Errorf("count successors: %w", err)
	}
	return n, nil
}

// MarkRevoked sets the index of a revocation.
func MarkRevoked(tx *db.Tx, serial string, at int64, reason int) error {
	_, err := tx.Exec(`UPDATE certs SET revoked_at = ?, reason = ? WHERE serial = ?`, at, reason, serial)
	return err
}

// CRL is a row of crl_state.
type CRL struct {
	Issuer     string
	Number     uint64
	NextUpdate int64 // Unix seconds
	DER        []byte
}

// GetCRL returns the newest list of an issuer, or false.
func GetCRL(q db.Queryer, mountID []byte, issuer string) (CRL, bool, error) {
	c := CRL{Issuer: issuer}
	var n int64
	err := q.QueryRow(`SELECT number, next_update, der FROM crl_state WHERE mount_id = ? AND issuer = ?`, mountID, issuer).Scan(&n, &c.NextUpdate, &c.DER)
	if errors.Is(err, db.ErrNoRows) {
		return CRL{}, false, nil
	}
	if err != nil {
		return CRL{}, false, fmt.Errorf("read revocation list: %w", err)
	}
	c.Number = uint64(max(0, n)) //nolint:gosec // not negative
	return c, true, nil
}

// PutCRL replaces the list of an issuer.
func PutCRL(tx *db.Tx, mountID []byte, c CRL) error {
	_, err := tx.Exec(`INSERT INTO crl_state(mount_id, issuer, number, next_update, der) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT(mount_id, issuer) DO UPDATE SET number = excluded.number, next_update = excluded.next_update, der = excluded.der`,
		mountID, c.Issuer, int64(c.Number), c.NextUpdate, c.DER) //nolint:gosec // a counter
	return err
}

// NewestStart returns when the newest recorded certificate begins, in Unix seconds; 0 if there is none.
func NewestStart(q db.Queryer) (int64, error) {
	var n int64
	err := q.QueryRow(`SELECT not_before FROM certs ORDER BY seq DESC LIMIT 1`).Scan(&n)
	if errors.Is(err, db.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read newest certificate: %w", err)
	}
	return n, nil
}
