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

// The functions of this file serve the collector; they are the only deletions of content, and each is one
// short transaction, so that pushes and pulls go on beside them.

// gcBatch is how many rows one transaction of the collector touches.
const gcBatch = 500

// ExpireTrash forgets manifests that were deleted before the time, unless a live or trashed index of their
// repository still names them. It returns how many; ask again while it is a full batch.
func (s *Store) ExpireTrash(ctx context.Context, before time.Time) (n int64, more bool, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		rows, err := tx.Query(`SELECT rm.repo, rm.digest FROM repo_manifests rm
			WHERE rm.deleted_at IS NOT NULL AND rm.deleted_at < ?
			AND NOT EXISTS (SELECT 1 FROM manifest_refs mr JOIN repo_manifests p ON p.repo = rm.repo AND p.digest = mr.manifest
				WHERE mr.child = rm.digest AND mr.kind = 'manifest') LIMIT ?`, micro(before), gcBatch)
		if err != nil {
			return err
		}
		links, err := scanLinks(rows)
		if err != nil {
			return err
		}
		for _, l := range links {
			if _, err := tx.Exec(`DELETE FROM repo_manifests WHERE repo = ? AND digest = ? AND deleted_at IS NOT NULL`, l.repo, l.digest); err != nil {
				return err
			}
			if _, err := tx.Exec(`DELETE FROM manifests WHERE digest = ? AND NOT EXISTS
				(SELECT 1 FROM repo_manifests rm WHERE rm.digest = manifests.digest)`, l.digest); err != nil {
				return err
			}
		}
		n, more = int64(len(links)), len(links) == gcBatch
		return nil
	})
	return n, more, err
}

type linkKey struct {
	repo   int64
	digest string
}

func scanLinks(rows *db.Rows) (out []linkKey, err error) {
	defer rows.Close()
	for rows.Next() {
		var l linkKey
		if err := rows.Scan(&l.repo, &l.digest); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, rows.Err()
}

// TrashUntagged moves dead untagged manifests into the trash: last tagged, pulled and pushed before the time,
// no child of a live index, no referrer of a live subject, not pinned. A referrer whose subject is gone dies
// after orphaned. One operation holds all of a run.
func (s *Store) TrashUntagged(ctx context.Context, before, orphaned time.Time, op string) (n int64, more bool, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		n, more = 0, false
		rows, err := tx.Query(`SELECT rm.repo, rm.digest FROM repo_manifests rm JOIN manifests m ON m.digest = rm.digest
			WHERE rm.deleted_at IS NULL
			AND max(coalesce(rm.untagged_at, rm.pushed_at), coalesce(rm.last_pulled, 0), rm.pushed_at) <
				CASE WHEN m.subject <> '' THEN ?2 ELSE ?1 END
			AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repo = rm.repo AND t.digest = rm.digest)
			AND NOT EXISTS (SELECT 1 FROM manifest_refs mr JOIN repo_manifests p ON p.repo = rm.repo AND p.digest = mr.manifest
				AND p.deleted_at IS NULL WHERE mr.child = rm.digest AND mr.kind = 'manifest')
			AND NOT EXISTS (SELECT 1 FROM repo_manifests sub WHERE sub.repo = rm.repo AND sub.digest = m.subject AND sub.deleted_at IS NULL)
			LIMIT ?3`, micro(before), micro(orphaned), gcBatch)
		if err != nil {
			return err
		}
		links, err := scanLinks(rows)
		if err != nil {
			return err
		}
		now := s.now()
		for _, l := range links {
			var repo string
			if err := tx.QueryRow(`SELECT name FROM repos WHERE id = ?`, l.repo).Scan(&repo); err != nil {
				return err
			}
			_, err := trash(tx, l.repo, l.digest, Deletion{Repo: repo, Op: op, Who: "gc"}, now)
			if fault.HasReason(err, ReasonPinned) {
				continue
			}
			if err != nil {
				return err
			}
			n++
		}
		more = len(links) == gcBatch && n > 0
		return nil
	})
	return n, more, err
}

// DropLinks removes dead links: untouched since the time, and used by no manifest of their repository, live or
// in the trash.
func (s *Store) DropLinks(ctx context.Context, before time.Time) (n int64, more bool, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`DELETE FROM repo_blobs WHERE (repo, digest) IN (SELECT rb.repo, rb.digest FROM repo_blobs rb
			WHERE rb.touched < ? AND NOT EXISTS (SELECT 1 FROM manifest_refs mr
				JOIN repo_manifests rm ON rm.repo = rb.repo AND rm.digest = mr.manifest
				WHERE mr.child = rb.digest AND mr.kind IN ('config', 'layer'))
			LIMIT ?)`, micro(before), gcBatch)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		more = n == gcBatch
		return err
	})
	return n, more, err
}

// Unlinked lists blobs that no repository holds, by digest, after the given one.
func (s *Store) Unlinked(ctx context.Context, after string) (out []StoredBlob, more bool, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out = nil
		rows, err := v.Query(`SELECT b.digest, b.size FROM blobs b WHERE b.digest > ?
			AND NOT EXISTS (SELECT 1 FROM repo_blobs rb WHERE rb.digest = b.digest) ORDER BY b.digest LIMIT ?`, after, gcBatch)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var b StoredBlob
			if err := rows.Scan(&b.Digest, &b.Size); err != nil {
				return err
			}
			out = append(out, b)
		}
		more = len(out) == gcBatch
		return rows.Err()
	})
	return out, more, err
}

// ForgetBlob removes a blob's row if still no repository holds it; it reports whether it did. The caller holds
// the digest's lock and unlinks the file afterwards.
func (s *Store) ForgetBlob(ctx context.Context, d digest.Digest) (gone bool, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`DELETE FROM blobs WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM repo_blobs rb WHERE rb.digest = blobs.digest)`, d.String())
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		gone = n > 0
		return err
	})
	return gone, err
}

// HasBlobRow reports whether any row, whole or quarantined, names a digest.
func (s *Store) HasBlobRow(ctx context.Context, d digest.Digest) (ok bool, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		var n int
		err := v.QueryRow(`SELECT count(*) FROM blobs WHERE digest = ?`, d.String()).Scan(&n)
		ok = n > 0
		return err
	})
	return ok, err
}

// ExpirePins drops leases that nobody confirmed.
func (s *Store) ExpirePins(ctx context.Context) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`DELETE FROM pins WHERE expires IS NOT NULL AND expires < ?`, s.now())
		return err
	})
}

// GCRun is one run of the collector.
type GCRun struct {
	ID               int64
	Started, Ended   time.Time
	State            string // running, done, failed, cancelled
	Stage            string
	ManifestsExpired int64
	LinksRemoved     int64
	BlobsRemoved     int64
	BytesFreed       int64
	UploadsExpired   int64
	OrphansRemoved   int64
	Error            string
}

// BeginGC records the start of a run; runs that a crash left running become failed.
func (s *Store) BeginGC(ctx context.Context) (r GCRun, err error) {
	r = GCRun{Started: s.clock.Now().UTC(), State: "running", Stage: "trash"}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`UPDATE gc_runs SET state = 'failed', ended = started, error = 'the server stopped' WHERE state = 'running'`); err != nil {
			return err
		}
		return tx.QueryRow(`INSERT INTO gc_runs (started, state, stage, manifests_expired, links_removed, blobs_removed, bytes_freed,
			uploads_expired, orphans_removed, error) VALUES (?, 'running', 'trash', 0, 0, 0, 0, 0, 0, '') RETURNING id`, micro(r.Started)).Scan(&r.ID)
	})
	return r, err
}

// SaveGC records how a run goes.
func (s *Store) SaveGC(ctx context.Context, r GCRun) error {
	var ended any
	if !r.Ended.IsZero() {
		ended = micro(r.Ended)
	}
	return s.write(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(`UPDATE gc_runs SET ended = ?, state = ?, stage = ?, manifests_expired = ?, links_removed = ?, blobs_removed = ?,
			bytes_freed = ?, uploads_expired = ?, orphans_removed = ?, error = ? WHERE id = ?`, ended, r.State, r.Stage, r.ManifestsExpired,
			r.LinksRemoved, r.BlobsRemoved, r.BytesFreed, r.UploadsExpired, r.OrphansRemoved, r.Error, r.ID); err != nil {
			return err
		}
		if r.State == "done" && r.BlobsRemoved+r.ManifestsExpired > 0 {
			return emit(tx, event{kind: "gc", who: "gc", at: s.now()})
		}
		return nil
	})
}

// LastGC returns a run, 0 = the newest.
func (s *Store) LastGC(ctx context.Context, id int64) (r GCRun, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		var started int64
		var ended *int64
		err := v.QueryRow(`SELECT id, started, ended, state, stage, manifests_expired, links_removed, blobs_removed, bytes_freed,
			uploads_expired, orphans_removed, error FROM gc_runs WHERE ?1 = 0 OR id = ?1 ORDER BY id DESC LIMIT 1`, id).Scan(&r.ID, &started, &ended,
			&r.State, &r.Stage, &r.ManifestsExpired, &r.LinksRemoved, &r.BlobsRemoved, &r.BytesFreed, &r.UploadsExpired, &r.OrphansRemoved, &r.Error)
		if errors.Is(err, db.ErrNoRows) {
			return fault.New(fault.NotFound, "no collection has run yet").WithNext("mcr gc --wait")
		}
		r.Started, r.Ended = fromMicro(started), fromNull(ended)
		return err
	})
	return r, err
}

// Usage is what the registry holds.
type Usage struct {
	Repos, Tags, Manifests, Blobs, Quarantined, Uploads int64
	BlobBytes                                           int64
	LinkedBytes                                         int64 // without sharing between repositories
}

// Usage counts what the registry holds.
func (s *Store) Usage(ctx context.Context) (u Usage, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		return v.QueryRow(`SELECT (SELECT count(*) FROM repos), (SELECT count(*) FROM tags),
			(SELECT count(*) FROM repo_manifests WHERE deleted_at IS NULL),
			(SELECT count(*) FROM blobs WHERE state = 'ok'), (SELECT count(*) FROM blobs WHERE state <> 'ok'),
			(SELECT count(*) FROM uploads), (SELECT coalesce(sum(size), 0) FROM blobs WHERE state = 'ok'),
			(SELECT coalesce(sum(b.size), 0) FROM repo_blobs rb JOIN blobs b ON b.digest = rb.digest)`).Scan(
			&u.Repos, &u.Tags, &u.Manifests, &u.Blobs, &u.Quarantined, &u.Uploads, &u.BlobBytes, &u.LinkedBytes)
	})
	if err != nil {
		return u, fmt.Errorf("count what is stored: %w", err)
	}
	return u, nil
}
