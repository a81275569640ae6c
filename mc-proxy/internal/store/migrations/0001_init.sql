-- The routing table and what belongs to it. Leases, health and counters live in memory only: a lease counts
-- from the start of the process, and the rest is found out anew.
CREATE TABLE route(
	id           INTEGER PRIMARY KEY,
	listener     TEXT NOT NULL,
	hostname     TEXT NOT NULL,
	alpn         TEXT NOT NULL,
	mode         TEXT NOT NULL,
	proto        TEXT NOT NULL,
	tls_cert     TEXT NOT NULL,
	tls_key      TEXT NOT NULL,
	backend_tls  INTEGER NOT NULL,
	backend_name TEXT NOT NULL,
	proxy_out    TEXT NOT NULL,
	proxy_key    TEXT NOT NULL,
	health_check TEXT NOT NULL, -- JSON
	timeouts     TEXT NOT NULL, -- JSON
	hsts         INTEGER NOT NULL, -- nanoseconds, as all durations here
	owner        TEXT NOT NULL,
	lease_ttl    INTEGER NOT NULL,
	created_by   TEXT NOT NULL,
	revision     INTEGER NOT NULL,
	last_op      TEXT NOT NULL,
	UNIQUE(listener, hostname, alpn)
) STRICT;

CREATE TABLE backend(
	route_id    INTEGER NOT NULL REFERENCES route(id) ON DELETE CASCADE,
	addr        TEXT NOT NULL,
	weight      INTEGER NOT NULL,
	state       TEXT NOT NULL CHECK(state IN ('active', 'draining')),
	drain_until INTEGER NOT NULL, -- unix nanoseconds, 0: none
	PRIMARY KEY(route_id, addr)
) STRICT, WITHOUT ROWID;

CREATE TABLE hold(
	route_id   INTEGER PRIMARY KEY REFERENCES route(id) ON DELETE CASCADE,
	op         TEXT NOT NULL,
	held_by    TEXT NOT NULL,
	until      INTEGER NOT NULL,
	max_wait   INTEGER NOT NULL,
	max_queued INTEGER NOT NULL
) STRICT;

CREATE TABLE audit(
	id      INTEGER PRIMARY KEY,
	at      INTEGER NOT NULL,
	uid     INTEGER NOT NULL,
	user    TEXT NOT NULL,
	method  TEXT NOT NULL,
	target  TEXT NOT NULL,
	outcome TEXT NOT NULL
) STRICT;

CREATE TABLE meta(
	key   TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta(key, value) VALUES('generation', 0), ('next_id', 1);
