package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcr/internal/image"
)

// Manifest is a manifest as a repository shows it.
type Manifest struct {
	Repo         string
	Digest       digest.Digest
	MediaType    string
	ArtifactType string
	Subject      string
	Size         int64
	Annotations  map[string]string
	Body         []byte // nil in lists
	PushedBy     string
	PushedAt     time.Time
	LastPulled   time.Time
	UntaggedAt   time.Time
}

// Push is what a client pushed.
type Push struct {
	Repo      string
	Digest    digest.Digest
	Manifest  *image.Manifest
	Body      []byte
	Tags      []string
	Who       string
	Immutable func(repo, tag string) (rule string) // the rule that holds a tag, "" = none
	Force     bool                                 // move immutable tags too
}

// PutManifest stores a manifest and its tags, all or nothing. A *MissingError names parts that the repository
// does not hold.
func (s *Store) PutManifest(ctx context.Context, p Push) error {
	annotations, err := json.Marshal(p.Manifest.Annotations)
	if err != nil {
		return fmt.Errorf("annotations: %w", err)
	}
	return s.write(ctx, func(tx *db.Tx) error {
		now := s.now()
		id, err := ensureRepo(tx, p.Repo, now)
		if err != nil {
			return err
		}
		if err := useChildren(tx, id, p.Manifest.Children, now); err != nil {
			return err
		}
		res, err := tx.Exec(`INSERT INTO manifests (digest, artifact_type, subject, size, annotations, body)
			VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING`, p.Digest.String(), p.Manifest.ArtifactType,
			p.Manifest.Subject.String(), len(p.Body), string(annotations), p.Body)
		if err != nil {
			return fmt.Errorf("record manifest: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil {
			return err
		} else if n > 0 {
			if err := putRefs(tx, p.Digest, p.Manifest.Children); err != nil {
				return err
			}
		}
		var known bool
		err = tx.QueryRow(`SELECT deleted_at IS NULL FROM repo_manifests WHERE repo = ? AND digest = ?`, id, p.Digest.String()).Scan(&known)
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return err
		}
		if known {
			_, err = tx.Exec(`UPDATE repo_manifests SET pushed_at = ? WHERE repo = ? AND digest = ?`, now, id, p.Digest.String())
		} else {
			_, err = tx.Exec(`INSERT INTO repo_manifests (repo, digest, media_type, pushed_by, pushed_at, untagged_at)
				VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (repo, digest) DO UPDATE SET media_type = excluded.media_type,
				pushed_by = excluded.pushed_by, pushed_at = excluded.pushed_at, untagged_at = excluded.untagged_at,
				deleted_at = NULL, deleted_by = NULL, op = NULL`,
				id, p.Digest.String(), p.Manifest.MediaType, p.Who, now, now)
		}
		if err != nil {
			return fmt.Errorf("link manifest: %w", err)
		}
		moved := false
		for _, t := range p.Tags {
			changed, err := setTag(tx, tagMove{repo: id, repoName: p.Repo, name: t, digest: p.Digest.String(), who: p.Who,
				verb: "push", now: now, immutable: p.Immutable, force: p.Force})
			if err != nil {
				return err
			}
			moved = moved || changed
		}
		if !known && !moved {
			return emit(tx, event{kind: "push", repo: p.Repo, digest: p.Digest.String(), who: p.Who, at: now})
		}
		return nil
	})
}

// useChildren checks that the repository holds each part and renews the leases of its blobs.
func useChildren(tx *db.Tx, repo int64, children []image.Descriptor, now int64) error {
	var missing []digest.Digest
	for _, c := range children {
		var n int
		var err error
		switch c.Kind {
		case image.Foreign:
			continue
		case image.Child:
			err = tx.QueryRow(`SELECT count(*) FROM repo_manifests WHERE repo = ? AND digest = ? AND deleted_at IS NULL`,
				repo, c.Digest.String()).Scan(&n)
		default:
			err = tx.QueryRow(`SELECT count(*) FROM repo_blobs rb JOIN blobs b ON b.digest = rb.digest AND b.state = 'ok'
				WHERE rb.repo = ? AND rb.digest = ? AND rb.hidden = 0`, repo, c.Digest.String()).Scan(&n)
			if err == nil && n > 0 {
				_, err = tx.Exec(`UPDATE repo_blobs SET touched = max(touched, ?) WHERE repo = ? AND digest = ?`, now, repo, c.Digest.String())
			}
		}
		if err != nil {
			return fmt.Errorf("check parts: %w", err)
		}
		if n == 0 {
			missing = append(missing, c.Digest)
		}
	}
	if missing != nil {
		return &MissingError{missing}
	}
	return nil
}

func putRefs(tx *db.Tx, d digest.Digest, children []image.Descriptor) error {
	for i, c := range children {
		if _, err := tx.Exec(`INSERT INTO manifest_refs (manifest, pos, child, kind, media_type, size, platform) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			d.String(), i, c.Digest.String(), string(c.Kind), c.MediaType, c.Size, c.Platform); err != nil {
			return fmt.Errorf("record parts: %w", err)
		}
	}
	return nil
}

const manifestColumns = `r.name, m.digest, rm.media_type, m.artifact_type, m.subject, m.size, m.annotations,
	rm.pushed_by, rm.pushed_at, rm.last_pulled, rm.untagged_at`

func scanManifest(scan func(...any) error, more ...any) (m Manifest, err error) {
	var annotations string
	var pushed int64
	var pulled, untagged *int64
	dest := append([]any{&m.Repo, &m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject, &m.Size, &annotations,
		&m.PushedBy, &pushed, &pulled, &untagged}, more...)
	if err := scan(dest...); err != nil {
		return m, err
	}
	m.PushedAt, m.LastPulled, m.UntaggedAt = fromMicro(pushed), fromNull(pulled), fromNull(untagged)
	if annotations != "null" && annotations != "{}" {
		if err := json.Unmarshal([]byte(annotations), &m.Annotations); err != nil {
			return m, fmt.Errorf("annotations of %s: %w", m.Digest, err)
		}
	}
	return m, nil
}

// Manifest returns a live manifest by tag or digest, with its body.
func (s *Store) Manifest(ctx context.Context, repo, ref string) (m Manifest, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		m, err = manifest(v, repo, ref)
		return err
	})
	return m, err
}

func manifest(q db.Queryer, repo, ref string) (m Manifest, err error) {
	query := `SELECT ` + manifestColumns + `, m.body FROM repos r
		JOIN tags t ON t.repo = r.id AND t.name = ?
		JOIN repo_manifests rm ON rm.repo = r.id AND rm.digest = t.digest AND rm.deleted_at IS NULL
		JOIN manifests m ON m.digest = rm.digest WHERE r.name = ?`
	if image.IsDigest(ref) {
		query = `SELECT ` + manifestColumns + `, m.body FROM repos r
			JOIN repo_manifests rm ON rm.repo = r.id AND rm.digest = ? AND rm.deleted_at IS NULL
			JOIN manifests m ON m.digest = rm.digest WHERE r.name = ?`
	}
	var body []byte
	m, err = scanManifest(q.QueryRow(query, ref, repo).Scan, &body)
	if errors.Is(err, db.ErrNoRows) {
		return m, errNoManifest(repo, ref)
	}
	m.Body = body
	return m, err
}

// Manifests lists a repository's live manifests by digest, after the given one.
func (s *Store) Manifests(ctx context.Context, repo, after string, untagged bool, n int) (out []Manifest, err error) {
	query := `SELECT ` + manifestColumns + ` FROM repos r
		JOIN repo_manifests rm ON rm.repo = r.id AND rm.deleted_at IS NULL AND rm.digest > ?
		JOIN manifests m ON m.digest = rm.digest
		WHERE r.name = ?`
	if untagged {
		query += ` AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repo = r.id AND t.digest = rm.digest)`
	}
	err = s.db.Read(ctx, func(v *db.View) error {
		if _, err := repoID(v, repo); errors.Is(err, db.ErrNoRows) {
			return errNoRepo(repo)
		}
		out, err = manifestRows(v, query+` ORDER BY rm.digest LIMIT ?`, after, repo, n)
		return err
	})
	return out, err
}

// Referrers lists the live manifests of a repository whose subject is d, by digest, after the given one.
// An unknown repository has none.
func (s *Store) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType, after string, n int) (out []Manifest, err error) {
	query := `SELECT ` + manifestColumns + ` FROM manifests m
		JOIN repos r ON r.name = ?
		JOIN repo_manifests rm ON rm.repo = r.id AND rm.digest = m.digest AND rm.deleted_at IS NULL
		WHERE m.subject = ? AND m.subject <> '' AND m.digest > ? AND (? = '' OR m.artifact_type = ?)
		ORDER BY m.digest LIMIT ?`
	err = s.db.Read(ctx, func(v *db.View) error {
		out, err = manifestRows(v, query, repo, d.String(), after, artifactType, artifactType, n)
		return err
	})
	return out, err
}

func manifestRows(q db.Queryer, query string, args ...any) (out []Manifest, err error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		m, err := scanManifest(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, rows.Err()
}

// Pulled is one manifest that was pulled.
type Pulled struct {
	Repo   string
	Digest digest.Digest
}

// NotePulls records when manifests were last pulled; the caller gathers them, so that pulls write nothing.
func (s *Store) NotePulls(ctx context.Context, pulls map[Pulled]time.Time) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		for p, at := range pulls {
			if _, err := tx.Exec(`UPDATE repo_manifests SET last_pulled = max(coalesce(last_pulled, 0), ?)
				WHERE digest = ? AND repo = (SELECT id FROM repos WHERE name = ?)`, micro(at), p.Digest.String(), p.Repo); err != nil {
				return fmt.Errorf("note pulls: %w", err)
			}
		}
		return nil
	})
}

// TotalBytes returns the size of a manifest and of everything below it, each digest once.
func (s *Store) TotalBytes(ctx context.Context, digests ...string) (sizes map[string]int64, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		sizes = make(map[string]int64, len(digests))
		for _, d := range digests {
			var n int64
			if err := v.QueryRow(`WITH RECURSIVE down (d, size) AS (
					SELECT digest, size FROM manifests WHERE digest = ?
					UNION SELECT mr.child, mr.size FROM manifest_refs mr JOIN down ON mr.manifest = down.d)
				SELECT coalesce(sum(size), 0) FROM down`, d).Scan(&n); err != nil {
				return err
			}
			sizes[d] = n
		}
		return nil
	})
	return sizes, err
}

// Parents returns the live indexes of a repository that name a digest.
func (s *Store) Parents(ctx context.Context, repo, digest string) (parents []string, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		parents, err = column(v, `SELECT mr.manifest FROM manifest_refs mr JOIN repos r ON r.name = ?
			JOIN repo_manifests rm ON rm.repo = r.id AND rm.digest = mr.manifest AND rm.deleted_at IS NULL
			WHERE mr.child = ? AND mr.kind = 'manifest' ORDER BY mr.manifest`, repo, digest)
		return err
	})
	return parents, err
}
