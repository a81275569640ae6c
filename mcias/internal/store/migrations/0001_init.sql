-- Times are Unix milliseconds, 0 = never. Lists are JSON arrays of strings.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE account (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  display TEXT NOT NULL DEFAULT '',
  email TEXT UNIQUE,
  type TEXT NOT NULL CHECK (type IN ('human', 'system')),
  status TEXT NOT NULL CHECK (status IN ('active', 'disabled', 'deleted')),
  epoch INTEGER NOT NULL,
  created INTEGER NOT NULL,
  last_login INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE account_role (
  account TEXT NOT NULL REFERENCES account (id), role TEXT NOT NULL CHECK (role IN ('admin', 'user', 'guest')),
  PRIMARY KEY (account, role)
) STRICT, WITHOUT ROWID;
CREATE TABLE account_tag (
  account TEXT NOT NULL REFERENCES account (id), tag TEXT NOT NULL, PRIMARY KEY (account, tag)
) STRICT, WITHOUT ROWID;
CREATE TABLE password (
  account TEXT PRIMARY KEY REFERENCES account (id), phc TEXT NOT NULL, changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE login_throttle (
  key BLOB PRIMARY KEY, fails INTEGER NOT NULL, next_ok INTEGER NOT NULL, last INTEGER NOT NULL,
  told INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX login_throttle_last ON login_throttle (last);
CREATE TABLE known_network (
  account TEXT NOT NULL REFERENCES account (id), prefix TEXT NOT NULL, last_ok INTEGER NOT NULL,
  PRIMARY KEY (account, prefix)
) STRICT, WITHOUT ROWID;

CREATE TABLE session (
  id_hash BLOB PRIMARY KEY,
  sid TEXT NOT NULL UNIQUE,
  account TEXT NOT NULL REFERENCES account (id),
  kind TEXT NOT NULL CHECK (kind IN ('browser', 'cli')),
  amr TEXT NOT NULL,
  auth_time INTEGER NOT NULL,
  ip TEXT NOT NULL,
  ua TEXT NOT NULL,
  created INTEGER NOT NULL,
  last_seen INTEGER NOT NULL,
  expires INTEGER NOT NULL
) STRICT;
CREATE INDEX session_account ON session (account);
CREATE TABLE setup_link (
  hash BLOB PRIMARY KEY,
  account TEXT NOT NULL REFERENCES account (id),
  purpose TEXT NOT NULL CHECK (purpose IN ('first_admin', 'invite', 'reset', 'break_glass')),
  expires INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE client (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('service', 'web', 'native', 'spa', 'test')),
  owner TEXT REFERENCES account (id),
  secret_hash BLOB,
  redirect_uris TEXT NOT NULL,
  post_logout_uris TEXT NOT NULL,
  tags TEXT NOT NULL,
  enabled INTEGER NOT NULL,
  created INTEGER NOT NULL
) STRICT;
CREATE TABLE service_key (
  kid TEXT PRIMARY KEY,
  account TEXT NOT NULL REFERENCES account (id),
  pub BLOB NOT NULL,
  services TEXT NOT NULL,
  created INTEGER NOT NULL,
  not_after INTEGER NOT NULL,
  retired INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX service_key_account ON service_key (account);
CREATE TABLE assertion_seen (jti TEXT PRIMARY KEY, expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX assertion_seen_expires ON assertion_seen (expires);

CREATE TABLE oidc_grant (
  id TEXT PRIMARY KEY,
  sid TEXT NOT NULL REFERENCES session (sid) ON DELETE CASCADE,
  account TEXT NOT NULL REFERENCES account (id),
  client TEXT NOT NULL REFERENCES client (id) ON DELETE CASCADE,
  scopes TEXT NOT NULL,
  created INTEGER NOT NULL
) STRICT;
CREATE INDEX oidc_grant_sid ON oidc_grant (sid);
CREATE TABLE auth_code (
  hash BLOB PRIMARY KEY,
  grant_id TEXT NOT NULL REFERENCES oidc_grant (id) ON DELETE CASCADE,
  client TEXT NOT NULL,
  redirect_uri TEXT NOT NULL,
  challenge TEXT NOT NULL,
  nonce TEXT NOT NULL,
  expires INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE access_token (
  hash BLOB PRIMARY KEY, grant_id TEXT NOT NULL REFERENCES oidc_grant (id) ON DELETE CASCADE, expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE refresh_token (
  hash BLOB PRIMARY KEY, grant_id TEXT NOT NULL REFERENCES oidc_grant (id) ON DELETE CASCADE,
  created INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX auth_code_grant ON auth_code (grant_id);
CREATE INDEX access_token_grant ON access_token (grant_id);
CREATE INDEX refresh_token_grant ON refresh_token (grant_id);
CREATE TABLE consent (
  account TEXT NOT NULL REFERENCES account (id), client TEXT NOT NULL REFERENCES client (id) ON DELETE CASCADE,
  scopes TEXT NOT NULL, given INTEGER NOT NULL, PRIMARY KEY (account, client)
) STRICT, WITHOUT ROWID;

CREATE TABLE signing_key (
  kid TEXT PRIMARY KEY,
  alg TEXT NOT NULL,
  use TEXT NOT NULL CHECK (use IN ('platform', 'oidc')),
  state TEXT NOT NULL CHECK (state IN ('next', 'active', 'retiring', 'gone', 'compromised')),
  pub BLOB NOT NULL,
  priv_enc BLOB,
  created INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  retire_at INTEGER NOT NULL
) STRICT;

CREATE TABLE policy_rule (id TEXT PRIMARY KEY, ord INTEGER NOT NULL, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE policy_revision (
  id INTEGER PRIMARY KEY AUTOINCREMENT, author TEXT NOT NULL, ts INTEGER NOT NULL, diff TEXT NOT NULL
) STRICT;

CREATE TABLE revocation (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL CHECK (kind IN ('jti', 'sid', 'sub', 'client', 'kid', 'key', 'all')),
  value TEXT NOT NULL,
  aud TEXT NOT NULL DEFAULT '',
  bound INTEGER NOT NULL DEFAULT 0,
  created INTEGER NOT NULL,
  expires INTEGER NOT NULL
) STRICT;
CREATE INDEX revocation_expires ON revocation (expires);
CREATE TABLE watcher (
  service TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, last_seen INTEGER NOT NULL,
  PRIMARY KEY (service, instance)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
  seq INTEGER PRIMARY KEY,
  ts INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  ip TEXT NOT NULL,
  outcome TEXT NOT NULL,
  detail TEXT NOT NULL,
  prev BLOB NOT NULL,
  hash BLOB NOT NULL
) STRICT;
CREATE INDEX audit_ts ON audit (ts);

CREATE TABLE slot (
  id TEXT PRIMARY KEY,
  kind TEXT NOT NULL,
  params BLOB NOT NULL,
  pub BLOB NOT NULL,
  wrapped_priv BLOB NOT NULL,
  sealed_mek BLOB NOT NULL,
  created INTEGER NOT NULL,
  last_used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE slot_attempts (lane TEXT PRIMARY KEY, count INTEGER NOT NULL, next_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
