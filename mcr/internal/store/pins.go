package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// Pin keeps a digest of a repository.
type Pin struct {
	Owner   string
	Repo    string
	Digest  string
	Reason  string
	SetAt   time.Time
	Expires time.Time // zero = never by itself
}

// SyncPins replaces the lasting pins of an owner by a set of a newer generation. Leases that ResolveAndPin gave
// run on, since their deployment may not be in the set yet. It returns the pins whose digest is not here.
func (s *Store) SyncPins(ctx context.Context, owner string, generation int64, set []Pin) (missing []Pin, changed bool, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		missing, changed = nil, false
		now := s.now()
		var have int64
		err := tx.QueryRow(`SELECT generation FROM pin_owners WHERE owner = ?`, owner).Scan(&have)
		first := errors.Is(err, db.ErrNoRows)
		if err != nil && !first {
			return err
		}
		if !first && generation < have {
			return staleGeneration(owner, generation, have)
		}
		if !first && generation == have {
			same, err := samePins(tx, owner, set)
			if err != nil {
				return err
			}
			if !same {
				return staleGeneration(owner, generation, have)
			}
		} else {
			changed = true
			if _, err := tx.Exec(`DELETE FROM pins WHERE owner = ? AND expires IS NULL`, owner); err != nil {
				return err
			}
			for _, p := range set {
				if err := putPin(tx, owner, p, now, nil); err != nil {
					return err
				}
			}
		}
		if _, err := tx.Exec(`INSERT INTO pin_owners (owner, generation, seen) VALUES (?, ?, ?)
			ON CONFLICT (owner) DO UPDATE SET generation = excluded.generation, seen = excluded.seen`, owner, generation, now); err != nil {
			return err
		}
		for _, p := range set {
			if _, err := manifest(tx, p.Repo, p.Digest); fault.Is(err, fault.NotFound) {
				missing = append(missing, p)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return missing, changed, err
}

func staleGeneration(owner string, got, have int64) error {
	return fault.New(fault.Conflict, "pins of %s: generation %d is not newer than %d", owner, got, have).WithReason(ReasonStaleGen)
}

func samePins(tx *db.Tx, owner string, set []Pin) (bool, error) {
	have, err := column(tx, `SELECT repo || '@' || digest FROM pins WHERE owner = ? AND expires IS NULL`, owner)
	if err != nil {
		return false, err
	}
	want := map[string]bool{}
	for _, p := range set {
		want[p.Repo+"@"+p.Digest] = true
	}
	for _, h := range have {
		if !want[h] {
			return false, nil
		}
	}
	return len(have) == len(want), nil
}

func putPin(tx *db.Tx, owner string, p Pin, now int64, expires *int64) error {
	_, err := tx.Exec(`INSERT INTO pins (owner, repo, digest, reason, set_at, expires) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (owner, repo, digest) DO UPDATE SET reason = excluded.reason,
		expires = CASE WHEN pins.expires IS NULL OR excluded.expires IS NULL THEN NULL ELSE max(pins.expires, excluded.expires) END`,
		owner, p.Repo, p.Digest, p.Reason, now, expires)
	if err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return nil
}

// ResolveAndPin finds a live manifest by tag or digest, checks that every part of it is here, and pins it for a
// while, in one transaction.
func (s *Store) ResolveAndPin(ctx context.Context, owner, repo, ref, reason string, lease time.Duration) (m Manifest, expires time.Time, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		m, err = manifest(tx, repo, ref)
		if err != nil {
			return err
		}
		if lost, err := lostParts(tx, repo, m.Digest.String()); err != nil {
			return err
		} else if lost > 0 {
			return fault.New(fault.NotFound, "%s@%s is not whole: %d of its parts are gone", repo, m.Digest, lost).
				WithReason(ReasonUnknown).WithNext("push it again")
		}
		now := s.clock.Now()
		expires = now.Add(lease).UTC()
		until := micro(expires)
		return putPin(tx, owner, Pin{Repo: repo, Digest: m.Digest.String(), Reason: reason}, micro(now), &until)
	})
	return m, expires, err
}

// lostParts counts the parts below a manifest that its repository does not show.
func lostParts(q db.Queryer, repo, digest string) (n int, err error) {
	err = q.QueryRow(`WITH RECURSIVE down (d, kind) AS (
			SELECT ?1, 'manifest'
			UNION SELECT mr.child, mr.kind FROM manifest_refs mr JOIN down ON mr.manifest = down.d WHERE down.kind = 'manifest')
		SELECT count(*) FROM down JOIN repos r ON r.name = ?2 WHERE CASE down.kind
			WHEN 'foreign' THEN 0
			WHEN 'manifest' THEN NOT EXISTS (SELECT 1 FROM repo_manifests rm WHERE rm.repo = r.id AND rm.digest = down.d AND rm.deleted_at IS NULL)
			ELSE NOT EXISTS (SELECT 1 FROM repo_blobs rb JOIN blobs b ON b.digest = rb.digest AND b.state = 'ok'
				WHERE rb.repo = r.id AND rb.digest = down.d AND rb.hidden = 0) END`, digest, repo).Scan(&n)
	return n, err
}

// Pins lists live pins in order of owner, repository and digest, after the given one.
func (s *Store) Pins(ctx context.Context, owner, repo string, after Pin, n int) (out []Pin, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out = nil
		rows, err := v.Query(`SELECT owner, repo, digest, reason, set_at, expires FROM pins
			WHERE (?1 = '' OR owner = ?1) AND (?2 = '' OR repo = ?2) AND (owner, repo, digest) > (?3, ?4, ?5)
			AND (expires IS NULL OR expires > ?6) ORDER BY owner, repo, digest LIMIT ?7`,
			owner, repo, after.Owner, after.Repo, after.Digest, s.now(), n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p Pin
			var at int64
			var expires *int64
			if err := rows.Scan(&p.Owner, &p.Repo, &p.Digest, &p.Reason, &at, &expires); err != nil {
				return err
			}
			p.SetAt, p.Expires = fromMicro(at), fromNull(expires)
			out = append(out, p)
		}
		return rows.Err()
	})
	return out, err
}

// PinsOn returns who pins a digest in a repository.
func (s *Store) PinsOn(ctx context.Context, repo, digest string) (owners []string, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		owners, err = column(v, `SELECT owner FROM pins WHERE repo = ? AND digest = ? AND (expires IS NULL OR expires > ?) ORDER BY owner`,
			repo, digest, s.now())
		return err
	})
	return owners, err
}

// ReleasePins drops every pin of an owner.
func (s *Store) ReleasePins(ctx context.Context, owner string) (n int64, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`DELETE FROM pins WHERE owner = ?`, owner)
		if err != nil {
			return err
		}
		if n, err = res.RowsAffected(); err != nil {
			return err
		}
		_, err = tx.Exec(`DELETE FROM pin_owners WHERE owner = ?`, owner)
		return err
	})
	return n, err
}
