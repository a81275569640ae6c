CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE service (
  name TEXT PRIMARY KEY,
  desired TEXT NOT NULL CHECK (desired IN ('running','stopped','down')),
  core INTEGER NOT NULL,
  current_gen INTEGER NOT NULL DEFAULT 0,
  previous_gen INTEGER NOT NULL DEFAULT 0,
  uid INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE generation (
  service TEXT NOT NULL,
  n INTEGER NOT NULL,
  spec TEXT NOT NULL,
  spec_hash TEXT NOT NULL,
  digests TEXT NOT NULL,
  slot INTEGER NOT NULL,
  state TEXT NOT NULL,
  operator TEXT NOT NULL,
  reason TEXT NOT NULL,
  created TEXT NOT NULL,
  PRIMARY KEY (service, n)
) STRICT;

-- Slots a and b of a name are port and port + 1; they stay the service's until it is undeployed.
CREATE TABLE port (
  port INTEGER PRIMARY KEY,
  service TEXT NOT NULL,
  component TEXT NOT NULL,
  name TEXT NOT NULL,
  UNIQUE (service, component, name)
) STRICT;

CREATE TABLE op (
  id TEXT PRIMARY KEY,
  idempotency_key TEXT UNIQUE,
  kind TEXT NOT NULL,
  service TEXT NOT NULL,
  generation INTEGER NOT NULL,
  plan_id TEXT NOT NULL,
  state TEXT NOT NULL,
  operator TEXT NOT NULL,
  reason TEXT NOT NULL,
  started TEXT NOT NULL,
  ended TEXT,
  error TEXT
) STRICT;
CREATE INDEX op_service ON op(service, started);

CREATE TABLE op_step (
  op TEXT NOT NULL REFERENCES op(id) ON DELETE CASCADE,
  n INTEGER NOT NULL,
  name TEXT NOT NULL,
  state TEXT NOT NULL,
  detail TEXT NOT NULL,
  at TEXT NOT NULL,
  seconds REAL NOT NULL,
  PRIMARY KEY (op, n)
) STRICT;

CREATE TABLE event (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  ts TEXT NOT NULL,
  service TEXT NOT NULL,
  kind TEXT NOT NULL,
  severity INTEGER NOT NULL,
  detail TEXT NOT NULL,
  op TEXT NOT NULL
) STRICT;
