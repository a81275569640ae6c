package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// QuarantineBlob takes a damaged blob out of sight everywhere, until a push brings it whole. The caller holds
// the digest's lock.
func (s *Store) QuarantineBlob(ctx context.Context, d digest.Digest) error {
	return s.write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`UPDATE blobs SET state = 'quarantined' WHERE digest = ? AND state = 'ok'`, d.String())
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return emit(tx, event{kind: "quarantine", digest: d.String(), who: "mcr", at: s.now()})
	})
}

// StoredBlob is a blob whoever shows it, for the verifier.
type StoredBlob struct {
	Digest   digest.Digest
	Size     int64
	Verified time.Time
}

// BlobsByDigest lists whole blobs by digest, after the given one.
func (s *Store) BlobsByDigest(ctx context.Context, after string, n int) (out []StoredBlob, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out = nil
		rows, err := v.Query(`SELECT digest, size, verified_at FROM blobs WHERE state = 'ok' AND digest > ? ORDER BY digest LIMIT ?`, after, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var b StoredBlob
			var at int64
			if err := rows.Scan(&b.Digest, &b.Size, &at); err != nil {
				return err
			}
			b.Verified = fromMicro(at)
			out = append(out, b)
		}
		return rows.Err()
	})
	return out, err
}

// MarkVerified notes that blobs were read whole.
func (s *Store) MarkVerified(ctx context.Context, digests []digest.Digest) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		for _, d := range digests {
			if _, err := tx.Exec(`UPDATE blobs SET verified_at = ? WHERE digest = ?`, s.now(), d.String()); err != nil {
				return err
			}
		}
		return nil
	})
}

// ManifestBodies lists every manifest's digest and bytes by digest, after the given one, for the verifier.
func (s *Store) ManifestBodies(ctx context.Context, after string, n int) (out []Manifest, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out = nil
		rows, err := v.Query(`SELECT digest, body FROM manifests WHERE digest > ? ORDER BY digest LIMIT ?`, after, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var m Manifest
			if err := rows.Scan(&m.Digest, &m.Body); err != nil {
				return err
			}
			out = append(out, m)
		}
		return rows.Err()
	})
	return out, err
}

// VerifyRun is one run of the verifier.
type VerifyRun struct {
	ID             int64
	Started, Ended time.Time
	State          string
	Quick          bool
	Blobs, Bytes   int64
	Manifests      int64
	Quarantined    []string
	Error          string
}

// BeginVerify records the start of a run; runs that a crash left running become failed.
func (s *Store) BeginVerify(ctx context.Context, quick bool) (r VerifyRun, err error) {
	r = VerifyRun{Started: s.clock.Now().UTC(), State: "running", Quick: quick}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`UPDATE verify_runs SET state = 'failed', ended = started, error = 'the server stopped' WHERE state = 'running'`); err != nil {
			return err
		}
		return tx.QueryRow(`INSERT INTO verify_runs (started, state, quick, blobs_checked, bytes_checked, manifests_checked, quarantined, error)
			VALUES (?, 'running', ?, 0, 0, 0, '[]', '') RETURNING id`, micro(r.Started), quick).Scan(&r.ID)
	})
	return r, err
}

// SaveVerify records how a run goes.
func (s *Store) SaveVerify(ctx context.Context, r VerifyRun) error {
	var ended any
	if !r.Ended.IsZero() {
		ended = micro(r.Ended)
	}
	list, err := json.Marshal(r.Quarantined)
	if err != nil {
		return fmt.Errorf("verify run: %w", err)
	}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE verify_runs SET ended = ?, state = ?, blobs_checked = ?, bytes_checked = ?, manifests_checked = ?,
			quarantined = ?, error = ? WHERE id = ?`, ended, r.State, r.Blobs, r.Bytes, r.Manifests, string(list), r.Error, r.ID)
		return err
	})
}

// LastVerify returns a run, 0 = the newest.
func (s *Store) LastVerify(ctx context.Context, id int64) (r VerifyRun, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		var started int64
		var ended *int64
		var list string
		err := v.QueryRow(`SELECT id, started, ended, state, quick, blobs_checked, bytes_checked, manifests_checked, quarantined, error
			FROM verify_runs WHERE ?1 = 0 OR id = ?1 ORDER BY id DESC LIMIT 1`, id).Scan(&r.ID, &started, &ended, &r.State, &r.Quick,
			&r.Blobs, &r.Bytes, &r.Manifests, &list, &r.Error)
		if errors.Is(err, db.ErrNoRows) {
			return fault.New(fault.NotFound, "no verification has run yet").WithNext("mcr verify")
		}
		if err != nil {
			return err
		}
		r.Started, r.Ended = fromMicro(started), fromNull(ended)
		return json.Unmarshal([]byte(list), &r.Quarantined)
	})
	return r, err
}
