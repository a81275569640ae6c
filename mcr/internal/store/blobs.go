package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// Blob is a blob as a repository shows it.
type Blob struct {
	Digest  digest.Digest
	Size    int64
	Touched time.Time // its lease in this repository
}

const visibleBlob = `SELECT b.size, rb.touched FROM repos r
	JOIN repo_blobs rb ON rb.repo = r.id AND rb.digest = ? AND rb.hidden = 0
	JOIN blobs b ON b.digest = rb.digest AND b.state = 'ok'
	WHERE r.name = ?`

// Blob returns a blob that the repository shows.
func (s *Store) Blob(ctx context.Context, repo string, d digest.Digest) (b Blob, err error) {
	err = s.db.Read(ctx, func(v *db.View) error { b, err = blob(v, repo, d); return err })
	return b, err
}

func blob(q db.Queryer, repo string, d digest.Digest) (Blob, error) {
	b := Blob{Digest: d}
	var touched int64
	err := q.QueryRow(visibleBlob, d.String(), repo).Scan(&b.Size, &touched)
	if errors.Is(err, db.ErrNoRows) {
		return b, errNoBlob(repo, d)
	}
	b.Touched = fromMicro(touched)
	return b, err
}

// Renew extends the lease of a blob, so that a client who was told that it is here may rely on it. It is
// durable when it returns, and NotFound if the repository does not show the blob any more. Leases younger
// than fresh are left alone, so that busy blobs cost no write.
func (s *Store) Renew(ctx context.Context, repo string, b Blob, fresh time.Duration) error {
	now := s.clock.Now()
	if now.Sub(b.Touched) < fresh && !b.Touched.After(now) {
		return nil
	}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`UPDATE repo_blobs SET touched = ? WHERE hidden = 0 AND digest = ?
			AND repo = (SELECT id FROM repos WHERE name = ?)`, micro(now), b.Digest.String(), repo)
		if err != nil {
			return fmt.Errorf("renew lease: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, errNoBlob(repo, b.Digest))
		}
		return nil
	})
}

// HasBlob reports whether a complete file with this digest is known, whoever shows it. Only for committing
// an upload, whose bytes are the proof of having the content, under the digest's lock.
func (s *Store) HasBlob(ctx context.Context, d digest.Digest) (ok bool, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		var n int
		err := v.QueryRow(`SELECT count(*) FROM blobs WHERE digest = ? AND state = 'ok'`, d.String()).Scan(&n)
		ok = n > 0
		return err
	})
	return ok, err
}

// CommitBlob records a blob whose file is in place, links it to the repository and ends the upload.
func (s *Store) CommitBlob(ctx context.Context, repo string, d digest.Digest, size int64, upload string) error {
	return s.write(ctx, func(tx *db.Tx) error {
		now := s.now()
		id, err := ensureRepo(tx, repo, now)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`INSERT INTO blobs (digest, size, created, verified_at, state) VALUES (?, ?, ?, ?, 'ok')
			ON CONFLICT (digest) DO UPDATE SET state = 'ok', size = excluded.size, verified_at = excluded.verified_at
			WHERE state <> 'ok'`, d.String(), size, now, now); err != nil {
			return fmt.Errorf("record blob: %w", err)
		}
		if err := link(tx, id, d, now); err != nil {
			return err
		}
		_, err = tx.Exec(`DELETE FROM uploads WHERE id = ?`, upload)
		return err
	})
}

func link(tx *db.Tx, repo int64, d digest.Digest, now int64) error {
	_, err := tx.Exec(`INSERT INTO repo_blobs (repo, digest, touched, hidden) VALUES (?, ?, ?, 0)
		ON CONFLICT (repo, digest) DO UPDATE SET touched = max(touched, excluded.touched), hidden = 0`, repo, d.String(), now)
	if err != nil {
		return fmt.Errorf("link blob: %w", err)
	}
	return nil
}

// Mount links a blob that from shows to another repository; NotFound if from does not show it.
func (s *Store) Mount(ctx context.Context, from, to string, d digest.Digest) error {
	return s.write(ctx, func(tx *db.Tx) error {
		if _, err := blob(tx, from, d); err != nil {
			return err
		}
		now := s.now()
		id, err := ensureRepo(tx, to, now)
		if err != nil {
			return err
		}
		return link(tx, id, d, now)
	})
}

// ReposWithBlob returns up to n repositories that show the blob, for a mount without a source.
func (s *Store) ReposWithBlob(ctx context.Context, d digest.Digest, n int) (names []string, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		names = nil
		rows, err := v.Query(`SELECT r.name FROM repo_blobs rb JOIN repos r ON r.id = rb.repo
			JOIN blobs b ON b.digest = rb.digest AND b.state = 'ok'
			WHERE rb.digest = ? AND rb.hidden = 0 ORDER BY r.name LIMIT ?`, d.String(), n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			names = append(names, name)
		}
		return rows.Err()
	})
	return names, err
}

// DeleteBlob takes a blob out of a repository. A live manifest there that uses it refuses; one in the trash
// keeps it, hidden.
func (s *Store) DeleteBlob(ctx context.Context, repo string, d digest.Digest, who string) error {
	return s.write(ctx, func(tx *db.Tx) error {
		if _, err := blob(tx, repo, d); err != nil {
			return err
		}
		id, err := repoID(tx, repo)
		if err != nil {
			return err
		}
		var live, trashed int
		err = tx.QueryRow(`SELECT count(CASE WHEN rm.deleted_at IS NULL THEN 1 END), count(rm.deleted_at)
			FROM manifest_refs mr JOIN repo_manifests rm ON rm.digest = mr.manifest AND rm.repo = ?
			WHERE mr.child = ? AND mr.kind IN ('config', 'layer')`, id, d.String()).Scan(&live, &trashed)
		if err != nil {
			return fmt.Errorf("find users of blob: %w", err)
		}
		switch {
		case live > 0:
			return fault.New(fault.Conflict, "blob %s is part of %d manifests of %s: delete the manifest first", d, live, repo).
				WithReason(ReasonInUse)
		case trashed > 0:
			_, err = tx.Exec(`UPDATE repo_blobs SET hidden = 1 WHERE repo = ? AND digest = ?`, id, d.String())
		default:
			_, err = tx.Exec(`DELETE FROM repo_blobs WHERE repo = ? AND digest = ?`, id, d.String())
		}
		if err != nil {
			return fmt.Errorf("delete blob: %w", err)
		}
		return emit(tx, event{kind: "delete", repo: repo, digest: d.String(), who: who, at: s.now()})
	})
}
