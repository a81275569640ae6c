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

// Upload is an open upload.
type Upload struct {
	ID        string // whoever knows it and is its owner may write
	Reference string // names it to administrators
	Repo      string
	Owner     string // account id
	OwnerName string
	Algorithm digest.Algorithm
	Synced    int64 // offset that survives a power cut
	State     []byte
	Started   time.Time
	Touched   time.Time
}

// OpenUpload records a new upload within the limits: of one owner, and in all.
func (s *Store) OpenUpload(ctx context.Context, u Upload, perOwner, total int) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		var mine, all int
		if err := tx.QueryRow(`SELECT count(CASE WHEN owner = ? THEN 1 END), count(*) FROM uploads`, u.Owner).Scan(&mine, &all); err != nil {
			return fmt.Errorf("count uploads: %w", err)
		}
		if mine >= perOwner || all >= total {
			return fault.New(fault.Exhausted, "%d uploads of yours and %d in all are open; at most %d and %d", mine, all, perOwner, total).
				WithReason(ReasonTooMany).WithRetry(10 * time.Second)
		}
		now := s.now()
		_, err := tx.Exec(`INSERT INTO uploads (id, reference, repo, owner, owner_name, algorithm, synced_offset, synced_state, started, touched)
			VALUES (?, ?, ?, ?, ?, ?, 0, x'', ?, ?)`, u.ID, u.Reference, u.Repo, u.Owner, u.OwnerName, u.Algorithm.String(), now, now)
		if err != nil {
			return fmt.Errorf("open upload: %w", err)
		}
		return nil
	})
}

const uploadColumns = `id, reference, repo, owner, owner_name, algorithm, synced_offset, synced_state, started, touched`

func scanUpload(scan func(...any) error) (u Upload, err error) {
	var started, touched int64
	err = scan(&u.ID, &u.Reference, &u.Repo, &u.Owner, &u.OwnerName, &u.Algorithm, &u.Synced, &u.State, &started, &touched)
	u.Started, u.Touched = fromMicro(started), fromMicro(touched)
	return u, err
}

// Upload returns an upload by id.
func (s *Store) Upload(ctx context.Context, id string) (u Upload, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		u, err = scanUpload(v.QueryRow(`SELECT `+uploadColumns+` FROM uploads WHERE id = ?`, id).Scan)
		if errors.Is(err, db.ErrNoRows) {
			return fault.New(fault.NotFound, "no such upload")
		}
		return err
	})
	return u, err
}

// UploadSynced records what survives a power cut. The file must be synced to that offset.
func (s *Store) UploadSynced(ctx context.Context, id string, offset int64, state []byte) error {
	if state == nil {
		state = []byte{}
	}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE uploads SET synced_offset = ?, synced_state = ?, touched = ? WHERE id = ?`, offset, state, s.now(), id)
		return err
	})
}

// TouchUpload says that an upload is in use. At most one write in a while: idle counts in hours.
func (s *Store) TouchUpload(ctx context.Context, u Upload) error {
	if s.clock.Now().Sub(u.Touched) < 10*time.Minute {
		return nil
	}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(`UPDATE uploads SET touched = ? WHERE id = ?`, s.now(), u.ID)
		return err
	})
}

// CloseUpload forgets an upload; it reports whether there was one.
func (s *Store) CloseUpload(ctx context.Context, id string) (found bool, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		res, err := tx.Exec(`DELETE FROM uploads WHERE id = ?`, id)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		found = n > 0
		return err
	})
	return found, err
}

// Uploads lists open uploads by reference, after the given one.
func (s *Store) Uploads(ctx context.Context, after string, n int) (out []Upload, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out, err = uploadRows(v, `WHERE reference > ? ORDER BY reference LIMIT ?`, after, n)
		return err
	})
	return out, err
}

// IdleUploads returns uploads not touched since the time.
func (s *Store) IdleUploads(ctx context.Context, before time.Time, n int) (out []Upload, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		out, err = uploadRows(v, `WHERE touched < ? ORDER BY touched LIMIT ?`, micro(before), n)
		return err
	})
	return out, err
}

// UploadByReference returns the id of an upload.
func (s *Store) UploadByReference(ctx context.Context, reference string) (u Upload, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		all, err := uploadRows(v, `WHERE reference = ?`, reference)
		if err == nil && len(all) == 0 {
			return fault.New(fault.NotFound, "no upload %s is open", reference).WithNext("mcr upload list")
		}
		if err == nil {
			u = all[0]
		}
		return err
	})
	return u, err
}

func uploadRows(q db.Queryer, where string, args ...any) (out []Upload, err error) {
	rows, err := q.Query(`SELECT `+uploadColumns+` FROM uploads `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		u, err := scanUpload(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, rows.Err()
}
