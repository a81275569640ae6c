package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"metacircular.net/mcdsl/db"
	"metacircular.net/mcdsl/fault"
)

// Tag is a name of a manifest.
type Tag struct {
	Repo      string
	Name      string
	Digest    string
	MediaType string
	SetBy     string
	SetAt     time.Time
}

// tagMove is one change of one tag.
type tagMove struct {
	repo      int64
	repoName  string
	name      string
	digest    string // "" = remove
	who       string
	verb      string
	op        string
	now       int64
	immutable func(repo, tag string) string
	force     bool
}

// setTag moves or makes a tag and reports whether anything changed.
func setTag(tx *db.Tx, m tagMove) (changed bool, err error) {
	var old string
	err = tx.QueryRow(`SELECT digest FROM tags WHERE repo = ? AND name = ?`, m.repo, m.name).Scan(&old)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return false, err
	}
	if old == m.digest {
		return false, nil
	}
	if !m.force && m.immutable != nil {
		if rule := m.immutable(m.repoName, m.name); rule != "" {
			spent := old
			if old == "" { // the name is spent: history knows what it meant
				err = tx.QueryRow(`SELECT new FROM tag_events WHERE repo = ? AND name = ? AND new <> '' ORDER BY seq DESC LIMIT 1`,
					m.repo, m.name).Scan(&spent)
				if err != nil && !errors.Is(err, db.ErrNoRows) {
					return false, err
				}
			}
			if spent != "" && spent != m.digest {
				return false, errImmutable(m.repoName, m.name, rule)
			}
		}
	}
	if m.digest == "" {
		_, err = tx.Exec(`DELETE FROM tags WHERE repo = ? AND name = ?`, m.repo, m.name)
	} else {
		_, err = tx.Exec(`INSERT INTO tags (repo, name, digest, set_by, set_at) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (repo, name) DO UPDATE SET digest = excluded.digest, set_by = excluded.set_by, set_at = excluded.set_at`,
			m.repo, m.name, m.digest, m.who, m.now)
	}
	if err != nil {
		return false, fmt.Errorf("move tag: %w", err)
	}
	if _, err := tx.Exec(`INSERT INTO tag_events (repo, name, old, new, who, at, verb, op) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		m.repo, m.name, old, m.digest, m.who, m.now, m.verb, m.op); err != nil {
		return false, fmt.Errorf("record tag: %w", err)
	}
	if old != "" {
		if _, err := tx.Exec(`UPDATE repo_manifests SET untagged_at = ? WHERE repo = ? AND digest = ?
			AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repo = repo_manifests.repo AND t.digest = repo_manifests.digest)`,
			m.now, m.repo, old); err != nil {
			return false, err
		}
	}
	kind := "untag"
	if m.digest != "" {
		kind = "tag"
		if _, err := tx.Exec(`UPDATE repo_manifests SET untagged_at = NULL WHERE repo = ? AND digest = ?`, m.repo, m.digest); err != nil {
			return false, err
		}
	}
	return true, emit(tx, event{kind: kind, repo: m.repoName, tag: m.name, digest: m.digest, old: old, who: m.who, at: m.now})
}

// TagChange says what to do with a tag.
type TagChange struct {
	Repo      string
	Name      string
	Digest    string // of a live manifest of the repository; "" = remove the tag
	Expect    string // what it must name now; "" = anything, "none" = it must not exist
	Who       string
	Op        string // id of the operation, for a removal
	Immutable func(repo, tag string) string
	Force     bool
}

// ChangeTag sets or removes a tag; it returns what it named before and whether anything changed.
func (s *Store) ChangeTag(ctx context.Context, c TagChange) (old string, changed bool, err error) {
	err = s.write(ctx, func(tx *db.Tx) error {
		id, err := repoID(tx, c.Repo)
		if errors.Is(err, db.ErrNoRows) {
			return errNoRepo(c.Repo)
		}
		if err != nil {
			return err
		}
		old = ""
		err = tx.QueryRow(`SELECT digest FROM tags WHERE repo = ? AND name = ?`, id, c.Name).Scan(&old)
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return err
		}
		if c.Digest == "" && old == "" {
			return errNoManifest(c.Repo, c.Name)
		}
		if c.Expect != "" && c.Expect != old && (c.Expect != "none" || old != "") {
			return fault.New(fault.Conflict, "tag %s of %s names %s, not %s", c.Name, c.Repo, orNothing(old), c.Expect).
				WithReason(ReasonMoved).WithNext("mcr tag list %s", c.Repo)
		}
		verb := "delete"
		if c.Digest != "" {
			verb = "set"
			if _, err := manifest(tx, c.Repo, c.Digest); err != nil {
				return err
			}
		}
		changed, err = setTag(tx, tagMove{repo: id, repoName: c.Repo, name: c.Name, digest: c.Digest, who: c.Who, verb: verb,
			op: c.Op, now: s.now(), immutable: c.Immutable, force: c.Force})
		return err
	})
	return old, changed, err
}

func orNothing(digest string) string {
	if digest == "" {
		return "nothing"
	}
	return digest
}

// Tags lists a repository's tags in byte order, after the given one. An unknown repository is NotFound.
func (s *Store) Tags(ctx context.Context, repo, after string, n int) (out []Tag, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		id, err := repoID(v, repo)
		if errors.Is(err, db.ErrNoRows) {
			return errNoRepo(repo)
		}
		if err != nil {
			return err
		}
		out = nil
		rows, err := v.Query(`SELECT t.name, t.digest, rm.media_type, t.set_by, t.set_at FROM tags t
			JOIN repo_manifests rm ON rm.repo = t.repo AND rm.digest = t.digest
			WHERE t.repo = ? AND t.name > ? ORDER BY t.name LIMIT ?`, id, after, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			t := Tag{Repo: repo}
			var at int64
			if err := rows.Scan(&t.Name, &t.Digest, &t.MediaType, &t.SetBy, &at); err != nil {
				return err
			}
			t.SetAt = fromMicro(at)
			out = append(out, t)
		}
		return rows.Err()
	})
	return out, err
}

// TagsOf returns the tags that name a digest in a repository.
func (s *Store) TagsOf(ctx context.Context, repo, digest string) (names []string, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		names, err = column(v, `SELECT t.name FROM tags t JOIN repos r ON r.id = t.repo WHERE r.name = ? AND t.digest = ? ORDER BY t.name`, repo, digest)
		return err
	})
	return names, err
}

// column returns the one text column of a query.
func column(q db.Queryer, query string, args ...any) (out []string, err error) {
	rows, err := q.Query(query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

// TagEvent is one move of one tag.
type TagEvent struct {
	Seq       int64
	Repo      string
	Name      string
	Old, New  string
	Who       string
	At        time.Time
	Verb      string
	Operation string
}

// History lists the moves of a repository's tags, newest first, before the given sequence (0 = from the newest).
func (s *Store) History(ctx context.Context, repo, name string, before int64, n int) (out []TagEvent, err error) {
	err = s.db.Read(ctx, func(v *db.View) error {
		id, err := repoID(v, repo)
		if errors.Is(err, db.ErrNoRows) {
			return errNoRepo(repo)
		}
		if err != nil {
			return err
		}
		out = nil
		rows, err := v.Query(`SELECT seq, name, old, new, who, at, verb, op FROM tag_events
			WHERE repo = ? AND (? = '' OR name = ?) AND (? = 0 OR seq < ?) ORDER BY seq DESC LIMIT ?`, id, name, name, before, before, n)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			e := TagEvent{Repo: repo}
			var at int64
			if err := rows.Scan(&e.Seq, &e.Name, &e.Old, &e.New, &e.Who, &at, &e.Verb, &e.Operation); err != nil {
				return err
			}
			e.At = fromMicro(at)
			out = append(out, e)
		}
		return rows.Err()
	})
	return out, err
}
