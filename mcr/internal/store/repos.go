package store

import (
	"context"
	"errors"
	"time"

	"metacircular.net/mcdsl/db"
)

// Repo is a repository with its numbers.
type Repo struct {
	Name      string
	Tags      int64
	Manifests int64
	Bytes     int64
	Created   time.Time
	LastPush  time.Time
	LastPull  time.Time
}

// repoColumns counts what is live; bytes are those of its links and manifests, shared blobs counted here too.
const repoColumns = `r.name, r.created,
	(SELECT count(*) FROM tags t WHERE t.repo = r.id),
	(SELECT count(*) FROM repo_manifests rm WHERE rm.repo = r.id AND rm.deleted_at IS NULL),
	(SELECT coalesce(sum(b.size), 0) FROM repo_blobs rb JOIN blobs b ON b.digest = rb.digest WHERE rb.repo = r.id) +
	(SELECT coalesce(sum(m.size), 0) FROM repo_manifests rm JOIN manifests m ON m.digest = rm.digest WHERE rm.repo = r.id),
	(SELECT max(rm.pushed_at) FROM repo_manifests rm WHERE rm.repo = r.id),
	(SELECT max(rm.last_pulled) FROM repo_manifests rm WHERE rm.repo = r.id)`

func scanRepo(scan func(...any) error) (r Repo, err error) {
	var created int64
	var pushed, pulled *int64
	err = scan(&r.Name, &created, &r.Tags, &r.Manifests, &r.Bytes, &pushed, &pulled)
	r.Created, r.LastPush, r.LastPull = fromMicro(created), fromNull(pushed), fromNull(pulled)
	return r, err
}

// Repo returns one repository.
func (s *Store) Repo(ctx context.Context, name string) (r Repo, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		r, err = scanRepo(v.QueryRow(`SELECT `+repoColumns+` FROM repos r WHERE r.name = ?`, name).Scan)
		if errors.Is(err, db.ErrNoRows) {
			return errNoRepo(name)
		}
		return err
	})
	return r, err
}

// batch is how many names are looked at together when filtering.
const batch = 500

// VisibleRepos lists, in byte order after the given name, up to n repositories that show a manifest and that
// visible lets pass, and whether there are more.
func (s *Store) VisibleRepos(ctx context.Context, after, contains string, n int, visible func(name string) bool) (names []string, more bool, err error) {
	names = []string{}
	for {
		all, err := s.repoNames(ctx, after, contains)
		if err != nil {
			return nil, false, err
		}
		for _, name := range all {
			if !visible(name) {
				continue
			}
			if len(names) == n {
				return names, true, nil
			}
			names = append(names, name)
		}
		if len(all) < batch {
			return names, false, nil
		}
		after = all[len(all)-1]
	}
}

func (s *Store) repoNames(ctx context.Context, after, contains string) (names []string, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		names, err = column(v, `SELECT r.name FROM repos r WHERE r.name > ? AND (? = '' OR instr(r.name, ?) > 0)
			AND EXISTS (SELECT 1 FROM repo_manifests rm WHERE rm.repo = r.id AND rm.deleted_at IS NULL)
			ORDER BY r.name LIMIT ?`, after, contains, contains, batch)
		return err
	})
	return names, err
}
