-- Times are microseconds since 1970, UTC. Every table has an explicit key; nothing refers to a rowid.

CREATE TABLE meta (
  key   TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE repos (
  id      INTEGER PRIMARY KEY,
  name    TEXT NOT NULL UNIQUE,
  kind    TEXT NOT NULL CHECK (kind IN ('local', 'cache', 'mirror')),
  created INTEGER NOT NULL
) STRICT;

-- A row in state ok names a complete, synced file.
CREATE TABLE blobs (
  digest      TEXT NOT NULL PRIMARY KEY,
  size        INTEGER NOT NULL,
  created     INTEGER NOT NULL,
  verified_at INTEGER NOT NULL,
  state       TEXT NOT NULL CHECK (state IN ('ok', 'quarantined'))
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_verified ON blobs (verified_at);

-- The visibility link: a blob is read only through a repository that holds it. touched is the lease.
CREATE TABLE repo_blobs (
  repo    INTEGER NOT NULL REFERENCES repos (id),
  digest  TEXT NOT NULL REFERENCES blobs (digest),
  touched INTEGER NOT NULL,
  hidden  INTEGER NOT NULL CHECK (hidden IN (0, 1)),
  PRIMARY KEY (repo, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repo_blobs_digest ON repo_blobs (digest);

CREATE TABLE manifests (
  digest        TEXT NOT NULL PRIMARY KEY,
  artifact_type TEXT NOT NULL,
  subject       TEXT NOT NULL,
  size          INTEGER NOT NULL,
  annotations   TEXT NOT NULL, -- JSON object
  body          BLOB NOT NULL
) STRICT;
CREATE INDEX manifests_subject ON manifests (subject) WHERE subject <> '';

CREATE TABLE manifest_refs (
  manifest   TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
  pos        INTEGER NOT NULL,
  child      TEXT NOT NULL,
  kind       TEXT NOT NULL CHECK (kind IN ('config', 'layer', 'manifest', 'foreign')),
  media_type TEXT NOT NULL,
  size       INTEGER NOT NULL,
  platform   TEXT NOT NULL,
  PRIMARY KEY (manifest, pos)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_refs_child ON manifest_refs (child);

-- A manifest in a repository; deleted_at set = in the trash. The media type is as pushed here.
CREATE TABLE repo_manifests (
  repo        INTEGER NOT NULL REFERENCES repos (id),
  digest      TEXT NOT NULL REFERENCES manifests (digest),
  media_type  TEXT NOT NULL,
  pushed_by   TEXT NOT NULL,
  pushed_at   INTEGER NOT NULL,
  last_pulled INTEGER,
  untagged_at INTEGER,
  deleted_at  INTEGER,
  deleted_by  TEXT,
  op          TEXT,
  PRIMARY KEY (repo, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repo_manifests_digest ON repo_manifests (digest);
CREATE INDEX repo_manifests_trash ON repo_manifests (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX repo_manifests_op ON repo_manifests (op) WHERE op IS NOT NULL;

CREATE TABLE tags (
  repo   INTEGER NOT NULL,
  name   TEXT NOT NULL,
  digest TEXT NOT NULL,
  set_by TEXT NOT NULL,
  set_at INTEGER NOT NULL,
  PRIMARY KEY (repo, name),
  FOREIGN KEY (repo, digest) REFERENCES repo_manifests (repo, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_digest ON tags (repo, digest);

-- Append-only; tags is exactly its fold.
CREATE TABLE tag_events (
  seq  INTEGER PRIMARY KEY AUTOINCREMENT,
  repo INTEGER NOT NULL REFERENCES repos (id),
  name TEXT NOT NULL,
  old  TEXT NOT NULL,
  new  TEXT NOT NULL,
  who  TEXT NOT NULL,
  at   INTEGER NOT NULL,
  verb TEXT NOT NULL CHECK (verb IN ('push', 'set', 'delete', 'restore', 'purge')),
  op   TEXT NOT NULL
) STRICT;
CREATE INDEX tag_events_name ON tag_events (repo, name, seq);
CREATE INDEX tag_events_op ON tag_events (op) WHERE op <> '';

-- An open upload. Its id is the capability to write to it; reference names it to administrators.
CREATE TABLE uploads (
  id            TEXT NOT NULL PRIMARY KEY,
  reference     TEXT NOT NULL UNIQUE,
  repo          TEXT NOT NULL,
  owner         TEXT NOT NULL,
  owner_name    TEXT NOT NULL,
  algorithm     TEXT NOT NULL,
  synced_offset INTEGER NOT NULL,
  synced_state  BLOB NOT NULL,
  started       INTEGER NOT NULL,
  touched       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_touched ON uploads (touched);
CREATE INDEX uploads_owner ON uploads (owner);

CREATE TABLE pin_owners (
  owner      TEXT NOT NULL PRIMARY KEY,
  generation INTEGER NOT NULL,
  seen       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- By name, not by repository id: a node may pin what is pushed here only later.
CREATE TABLE pins (
  owner   TEXT NOT NULL,
  repo    TEXT NOT NULL,
  digest  TEXT NOT NULL,
  reason  TEXT NOT NULL,
  set_at  INTEGER NOT NULL,
  expires INTEGER,
  PRIMARY KEY (owner, repo, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX pins_digest ON pins (digest, repo);

CREATE TABLE policy_rules (
  name       TEXT NOT NULL PRIMARY KEY,
  owner      TEXT NOT NULL CHECK (owner IN ('config', 'db')),
  body       TEXT NOT NULL, -- JSON
  changed    INTEGER NOT NULL,
  changed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE immutable_rules (
  name       TEXT NOT NULL PRIMARY KEY,
  owner      TEXT NOT NULL CHECK (owner IN ('config', 'db')),
  body       TEXT NOT NULL, -- JSON
  changed    INTEGER NOT NULL,
  changed_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
  seq    INTEGER PRIMARY KEY AUTOINCREMENT,
  kind   TEXT NOT NULL,
  repo   TEXT NOT NULL,
  tag    TEXT NOT NULL,
  digest TEXT NOT NULL,
  old    TEXT NOT NULL,
  who    TEXT NOT NULL,
  at     INTEGER NOT NULL
) STRICT;
CREATE INDEX events_at ON events (at);

CREATE TABLE gc_runs (
  id                INTEGER PRIMARY KEY AUTOINCREMENT,
  started           INTEGER NOT NULL,
  ended             INTEGER,
  state             TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
  stage             TEXT NOT NULL,
  manifests_expired INTEGER NOT NULL,
  links_removed     INTEGER NOT NULL,
  blobs_removed     INTEGER NOT NULL,
  bytes_freed       INTEGER NOT NULL,
  uploads_expired   INTEGER NOT NULL,
  orphans_removed   INTEGER NOT NULL,
  error             TEXT NOT NULL
) STRICT;

CREATE TABLE verify_runs (
  id                INTEGER PRIMARY KEY AUTOINCREMENT,
  started           INTEGER NOT NULL,
  ended             INTEGER,
  state             TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed', 'cancelled')),
  quick             INTEGER NOT NULL,
  blobs_checked     INTEGER NOT NULL,
  bytes_checked     INTEGER NOT NULL,
  manifests_checked INTEGER NOT NULL,
  quarantined       TEXT NOT NULL, -- JSON list of digests
  error             TEXT NOT NULL
) STRICT;
