-- The truth that only the master has; everything else it shows is read from the agents.
CREATE TABLE node (
  name       TEXT PRIMARY KEY,
  state      TEXT NOT NULL CHECK (state IN ('ready', 'removed')),
  cordoned   INTEGER NOT NULL DEFAULT 0,
  cert_fp    TEXT NOT NULL DEFAULT '', -- SHA-256 of the public key last seen, hex
  joined     TEXT NOT NULL,
  last_seen  TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE placement (
  service TEXT PRIMARY KEY,
  node    TEXT NOT NULL REFERENCES node(name),
  since   TEXT NOT NULL
) STRICT;
