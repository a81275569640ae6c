CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE unseal_attempts (lane TEXT PRIMARY KEY, count INTEGER NOT NULL, next_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- Numbers that never go back: CRL numbers and their like.
CREATE TABLE sequences (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE key_slots (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, params BLOB NOT NULL, pub BLOB NOT NULL, wrapped_priv BLOB NOT NULL,
  sealed_mek BLOB NOT NULL, created_at INTEGER NOT NULL, last_used_at INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE mounts (id BLOB PRIMARY KEY, type TEXT NOT NULL, name TEXT NOT NULL UNIQUE) STRICT, WITHOUT ROWID;
CREATE TABLE keys (
  id BLOB PRIMARY KEY, mount_id BLOB NOT NULL REFERENCES mounts(id), purpose TEXT NOT NULL CHECK (purpose IN ('data','path','mac')),
  version INTEGER NOT NULL, wrapped BLOB NOT NULL, state TEXT NOT NULL CHECK (state IN ('active','old')),
  uses_reserved INTEGER NOT NULL DEFAULT 0, UNIQUE (mount_id, purpose, version)
) STRICT, WITHOUT ROWID;

-- Small columns first, so that the scan at unseal never reads overflow pages.
CREATE TABLE entries (
  mount_id BLOB NOT NULL REFERENCES mounts(id), path_hash BLOB NOT NULL, rev INTEGER NOT NULL, key_id BLOB NOT NULL, tag BLOB NOT NULL,
  path_ct BLOB NOT NULL, ct BLOB NOT NULL, PRIMARY KEY (mount_id, path_hash)
) STRICT, WITHOUT ROWID;
CREATE TABLE integrity_root (id INTEGER PRIMARY KEY CHECK (id = 1), ct BLOB NOT NULL) STRICT;

-- Public data, outside the barrier; rows that grant something carry a MAC.
CREATE TABLE issuers (
  mount_id BLOB NOT NULL REFERENCES mounts(id), name TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('root','active','retired')),
  der BLOB NOT NULL, created_at INTEGER NOT NULL, mac BLOB NOT NULL, PRIMARY KEY (mount_id, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE certs (
  serial TEXT PRIMARY KEY, mount_id BLOB NOT NULL REFERENCES mounts(id), issuer TEXT NOT NULL, profile TEXT NOT NULL, spki_hash BLOB NOT NULL,
  sans TEXT NOT NULL, not_before INTEGER NOT NULL, not_after INTEGER NOT NULL, requester TEXT NOT NULL, replaces TEXT NOT NULL,
  revoked_at INTEGER NOT NULL DEFAULT 0, reason INTEGER NOT NULL DEFAULT 0, seq INTEGER NOT NULL UNIQUE, mac BLOB NOT NULL, der BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX certs_by_replaces ON certs(replaces) WHERE replaces <> '';
CREATE INDEX certs_by_issuer ON certs(mount_id, issuer, revoked_at) WHERE revoked_at > 0;
CREATE INDEX certs_by_expiry ON certs(mount_id, not_after);
CREATE TABLE crl_state (
  mount_id BLOB NOT NULL REFERENCES mounts(id), issuer TEXT NOT NULL, number INTEGER NOT NULL, next_update INTEGER NOT NULL, der BLOB NOT NULL,
  PRIMARY KEY (mount_id, issuer)
) STRICT, WITHOUT ROWID;
