// Package idem makes writes that are retried happen once.
//
// A caller may send an idempotency key. The response of the first call is stored under (caller, method,
// key) in the same transaction as its effect and is answered again for 24 h; the same key with another
// request is Invalid. Two calls at once cannot both run, because both are writes.
//
//	err := d.Write(ctx, func(tx *db.Tx) (err error) {
//		resp, _, err = idem.Do(tx, key, now, func() ([]byte, error) { … return proto.Marshal(resp) })
//		return err
//	})
package idem

import (
	"crypto/sha256"
	"errors"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// Limits.
const (
	Keep        = 24 * time.Hour
	maxKey      = 128
	maxResponse = 256 << 10
	sweep       = 64 // expired rows removed by each call
)

const table = `CREATE TABLE IF NOT EXISTS idempotency(
	caller     TEXT NOT NULL,
	method     TEXT NOT NULL,
	key        TEXT NOT NULL,
	request    BLOB NOT NULL,
	response   BLOB NOT NULL,
	expires_at INTEGER NOT NULL,
	PRIMARY KEY (caller, method, key)
) STRICT, WITHOUT ROWID`

// Key names one intended effect.
type Key struct {
	Caller  string // stable subject of the caller
	Method  string
	Key     string // from the request; "" = the caller wants no protection
	Request []byte // the request, deterministically encoded; only its hash is kept
}

// Do runs effect once per key within tx and returns its response, or the stored one with replayed set.
func Do(tx *db.Tx, k Key, now time.Time, effect func() ([]byte, error)) (response []byte, replayed bool, err error) {
	if k.Key == "" {
		response, err = effect()
		return response, false, err
	}
	if len(k.Key) > maxKey {
		return nil, false, fault.Field1("idempotency_key", "is over %d bytes", maxKey)
	}
	if _, err := tx.Exec(table); err != nil {
		return nil, false, err
	}
	hash := sha256.Sum256(k.Request)
	var stored []byte
	var expires int64
	err = tx.QueryRow(`SELECT request, response, expires_at FROM idempotency WHERE caller=? AND method=? AND key=?`,
		k.Caller, k.Method, k.Key).Scan(&stored, &response, &expires)
	switch {
	case errors.Is(err, db.ErrNoRows):
	case err != nil:
		return nil, false, err
	case expires <= now.Unix():
	case string(stored) != string(hash[:]):
		return nil, false, fault.Field1("idempotency_key", "was used for another request").WithReason("IDEMPOTENCY_KEY_REUSED")
	default:
		return response, true, nil
	}
	response, err = effect()
	if err != nil {
		return nil, false, err
	}
	if len(response) > maxResponse {
		return nil, false, fault.New(fault.Internal, "a response of %d bytes is too large to be kept", len(response))
	}
	if response == nil {
		response = []byte{}
	}
	if _, err := tx.Exec(`INSERT INTO idempotency(caller, method, key, request, response, expires_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (caller, method, key) DO UPDATE SET request=excluded.request, response=excluded.response, expires_at=excluded.expires_at`,
		k.Caller, k.Method, k.Key, hash[:], response, now.Add(Keep).Unix()); err != nil {
		return nil, false, err
	}
	_, err = tx.Exec(`DELETE FROM idempotency WHERE (caller, method, key) IN
		(SELECT caller, method, key FROM idempotency WHERE expires_at <= ? LIMIT ?)`, now.Unix(), sweep)
	return response, false, err
}
