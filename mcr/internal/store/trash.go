package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// protectedBy is a pin that reaches a digest: on itself, on an index above it, or on its subject.
const protectedBy = `WITH RECURSIVE up (d) AS (
		SELECT ?1
		UNION SELECT mr.manifest FROM manifest_refs mr JOIN up ON mr.child = up.d WHERE mr.kind = 'manifest'
		UNION SELECT m.subject FROM manifests m JOIN up ON m.digest = up.d WHERE m.subject <> '')
	SELECT p.owner, p.reason FROM up JOIN pins p ON p.digest = up.d
	WHERE p.repo = ?2 AND (p.expires IS NULL OR p.expires > ?3) LIMIT 1`

func pinOn(q db.Queryer, repo, digest string, now int64) (owner, reason string, err error) {
	err = q.QueryRow(protectedBy, digest, repo, now).Scan(&owner, &reason)
	if errors.Is(err, db.ErrNoRows) {
		return "", "", nil
	}
	return owner, reason, err
}

// Deletion says what to put into the trash.
type Deletion struct {
	Repo      string
	Digest    string // "" = everything of the repository
	Op        string
	Who       string
	Immutable func(repo, tag string) string
	Force     bool // pinned and immutable too
}

// DeleteManifests moves manifests and their tags into the trash; it returns how many.
func (s *Store) DeleteManifests(ctx context.Context, d Deletion) (manifests, tags int64, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		manifests, tags = 0, 0
		id, err := repoID(tx, d.Repo)
		if errors.Is(err, db.ErrNoRows) {
			return errNoRepo(d.Repo)
		}
		if err != nil {
			return err
		}
		digests, err := column(tx, `SELECT digest FROM repo_manifests WHERE repo = ? AND deleted_at IS NULL AND (? = '' OR digest = ?)`,
			id, d.Digest, d.Digest)
		if err != nil {
			return err
		}
		if len(digests) == 0 && d.Digest != "" {
			return errNoManifest(d.Repo, d.Digest)
		}
		now := s.now()
		for _, dg := range digests {
			n, err := trash(tx, id, dg, d, now)
			if err != nil {
				return err
			}
			manifests, tags = manifests+1, tags+n
		}
		return nil
	})
	return manifests, tags, err
}

func trash(tx *db.Tx, repo int64, digest string, d Deletion, now int64) (tags int64, err error) {
	if !d.Force {
		owner, reason, err := pinOn(tx, d.Repo, digest, now)
		if err != nil {
			return 0, fmt.Errorf("look for pins: %w", err)
		}
		if owner != "" {
			return 0, errPinned(digest, owner, reason)
		}
	}
	names, err := column(tx, `SELECT name FROM tags WHERE repo = ? AND digest = ?`, repo, digest)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if _, err := setTag(tx, tagMove{repo: repo, repoName: d.Repo, name: name, who: d.Who, verb: "delete", op: d.Op, now: now,
			immutable: d.Immutable, force: d.Force}); err != nil {
			return 0, err
		}
	}
	if _, err := tx.Exec(`UPDATE repo_manifests SET deleted_at = ?, deleted_by = ?, op = ? WHERE repo = ? AND digest = ?`,
		now, d.Who, d.Op, repo, digest); err != nil {
		return 0, fmt.Errorf("trash manifest: %w", err)
	}
	return int64(len(names)), emit(tx, event{kind: "delete", repo: d.Repo, digest: digest, who: d.Who, at: now})
}

// TrashEntry is one deletion that can be undone.
type TrashEntry struct {
	Operation string
	Repo      string
	Who       string
	At        time.Time
	Tags      []string
	Digests   []string
}

// Trash lists the deletions in a repository, newest first, before the given time (zero = from the newest).
func (s *Store) Trash(ctx context.Context, repo string, before time.Time, n int) (out []TrashEntry, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out = nil
		limit := int64(1) << 62
		if !before.IsZero() {
			limit = micro(before)
		}
		rows, err := v.Query(`SELECT op, who, at FROM (
				SELECT rm.op AS op, rm.deleted_by AS who, rm.deleted_at AS at FROM repo_manifests rm JOIN repos r ON r.id = rm.repo
					WHERE r.name = ?1 AND rm.deleted_at IS NOT NULL
				UNION SELECT e.op, e.who, e.at FROM tag_events e JOIN repos r ON r.id = e.repo
					WHERE r.name = ?1 AND e.verb = 'delete' AND e.op <> ''
					AND EXISTS (SELECT 1 FROM repo_manifests rm WHERE rm.repo = e.repo AND rm.digest = e.old))
			WHERE at < ?2 GROUP BY op ORDER BY at DESC LIMIT ?3`, repo, limit, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e := TrashEntry{Repo: repo}
			var at int64
			if err := rows.Scan(&e.Operation, &e.Who, &at); err != nil {
				return err
			}
			e.At = fromMicro(at)
			out = append(out, e)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		for i := range out {
			if out[i].Tags, err = column(v, `SELECT e.name FROM tag_events e JOIN repos r ON r.id = e.repo
				WHERE r.name = ? AND e.op = ? AND e.verb = 'delete' ORDER BY e.name`, repo, out[i].Operation); err != nil {
				return err
			}
			if out[i].Digests, err = column(v, `SELECT rm.digest FROM repo_manifests rm JOIN repos r ON r.id = rm.repo
				WHERE r.name = ? AND rm.op = ? ORDER BY rm.digest`, repo, out[i].Operation); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// Restored says what came back.
type Restored struct {
	Digests []string
	Tags    []string
	Kept    []string // names that point elsewhere by now
}

// Restore undoes a deletion: its manifests are live again with all their blobs, its tags come back unless they
// name something else by now.
func (s *Store) Restore(ctx context.Context, repo, op, who string, overwrite bool) (out Restored, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		out = Restored{}
		id, err := repoID(tx, repo)
		if errors.Is(err, db.ErrNoRows) {
			return errNoRepo(repo)
		}
		if err != nil {
			return err
		}
		if out.Digests, err = column(tx, `SELECT digest FROM repo_manifests WHERE repo = ? AND op = ? AND deleted_at IS NOT NULL ORDER BY digest`, id, op); err != nil {
			return err
		}
		now := s.now()
		for _, d := range out.Digests {
			if err := revive(tx, id, repo, d, who, now); err != nil {
				return err
			}
		}
		if err := s.restoreTags(tx, id, repo, op, who, overwrite, now, &out); err != nil {
			return err
		}
		if len(out.Digests)+len(out.Tags)+len(out.Kept) == 0 {
			return fault.New(fault.NotFound, "%s has no deletion %s that can be undone", repo, op).WithReason(ReasonUnknownOp).
				WithNext("mcr trash list %s", repo)
		}
		return nil
	})
	return out, err
}

func revive(tx *db.Tx, repo int64, repoName, digest, who string, now int64) error {
	if _, err := tx.Exec(`UPDATE repo_manifests SET deleted_at = NULL, deleted_by = NULL, op = NULL, untagged_at = ?
		WHERE repo = ? AND digest = ?`, now, repo, digest); err != nil {
		return fmt.Errorf("revive manifest: %w", err)
	}
	if _, err := tx.Exec(`UPDATE repo_blobs SET hidden = 0, touched = max(touched, ?) WHERE repo = ?
		AND digest IN (SELECT child FROM manifest_refs WHERE manifest = ?)`, now, repo, digest); err != nil {
		return fmt.Errorf("show blobs again: %w", err)
	}
	return emit(tx, event{kind: "restore", repo: repoName, digest: digest, who: who, at: now})
}

func (s *Store) restoreTags(tx *db.Tx, repo int64, repoName, op, who string, overwrite bool, now int64, out *Restored) error {
	rows, err := tx.Query(`SELECT e.name, e.old, coalesce(t.digest, '') FROM tag_events e
		LEFT JOIN tags t ON t.repo = e.repo AND t.name = e.name
		WHERE e.repo = ? AND e.op = ? AND e.verb = 'delete' ORDER BY e.seq`, repo, op)
	if err != nil {
		return err
	}
	defer rows.Close()
	type back struct{ name, old, current string }
	var all []back
	for rows.Next() {
		var b back
		if err := rows.Scan(&b.name, &b.old, &b.current); err != nil {
			return err
		}
		all = append(all, b)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, b := range all {
		if b.current == b.old {
			continue
		}
		if b.current != "" && !overwrite {
			out.Kept = append(out.Kept, b.name)
			continue
		}
		var live int
		if err := tx.QueryRow(`SELECT count(*) FROM repo_manifests WHERE repo = ? AND digest = ? AND deleted_at IS NULL`, repo, b.old).Scan(&live); err != nil {
			return err
		}
		if live == 0 {
			continue
		}
		if _, err := setTag(tx, tagMove{repo: repo, repoName: repoName, name: b.name, digest: b.old, who: who, verb: "restore",
			op: "", now: now, force: true}); err != nil {
			return err
		}
		out.Tags = append(out.Tags, b.name)
	}
	return nil
}
