CREATE TABLE zone(
	id          INTEGER PRIMARY KEY,
	name        TEXT NOT NULL,
	kind        TEXT NOT NULL DEFAULT 'primary',
	view        TEXT NOT NULL DEFAULT '',
	mname       TEXT NOT NULL,
	rname       TEXT NOT NULL,
	refresh     INTEGER NOT NULL,
	retry       INTEGER NOT NULL,
	expire      INTEGER NOT NULL,
	minimum     INTEGER NOT NULL,
	default_ttl INTEGER NOT NULL,
	serial      INTEGER NOT NULL,
	signed      INTEGER NOT NULL DEFAULT 0,
	fallthrough INTEGER NOT NULL DEFAULT 0,
	changed_at  TEXT NOT NULL,
	UNIQUE (view, name)
) STRICT;

CREATE TABLE rrset(
	id   INTEGER PRIMARY KEY,
	zone INTEGER NOT NULL REFERENCES zone(id) ON DELETE CASCADE,
	name TEXT NOT NULL, -- canonical: lower-case, absolute
	type INTEGER NOT NULL,
	ttl  INTEGER NOT NULL,
	UNIQUE (zone, name, type)
) STRICT;

CREATE TABLE rdata(
	id         INTEGER PRIMARY KEY AUTOINCREMENT, -- an id is never used again: callers keep them
	rrset      INTEGER NOT NULL REFERENCES rrset(id) ON DELETE CASCADE,
	text       TEXT NOT NULL, -- canonical presentation form
	owner      TEXT NOT NULL,
	note       TEXT NOT NULL DEFAULT '',
	changed_at TEXT NOT NULL,
	UNIQUE (rrset, text)
) STRICT;

CREATE TABLE change_set(
	id          INTEGER PRIMARY KEY AUTOINCREMENT,
	group_id    TEXT NOT NULL,
	ts          TEXT NOT NULL,
	actor       TEXT NOT NULL,
	source      TEXT NOT NULL,
	reason      TEXT NOT NULL DEFAULT '',
	zone        TEXT NOT NULL,
	serial_from INTEGER NOT NULL,
	serial_to   INTEGER NOT NULL,
	undo_of     INTEGER
) STRICT;
CREATE INDEX change_set_zone ON change_set(zone, id);

CREATE TABLE change(
	change_set INTEGER NOT NULL REFERENCES change_set(id) ON DELETE CASCADE,
	seq        INTEGER NOT NULL,
	op         TEXT NOT NULL CHECK (op IN ('+', '-')),
	name       TEXT NOT NULL,
	type       INTEGER NOT NULL,
	ttl        INTEGER NOT NULL,
	text       TEXT NOT NULL,
	owner      TEXT NOT NULL,
	PRIMARY KEY (change_set, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE grants(
	id        INTEGER PRIMARY KEY AUTOINCREMENT,
	principal TEXT NOT NULL,
	zone      TEXT NOT NULL,
	name_glob TEXT NOT NULL,
	types     TEXT NOT NULL, -- comma separated, sorted; '' = all
	ops       TEXT NOT NULL, -- comma separated, sorted
	UNIQUE (principal, zone, name_glob, types, ops)
) STRICT;

-- One row for each owner's set in a zone; the set itself is small and read and written as a whole.
CREATE TABLE registration(
	zone       TEXT NOT NULL,
	owner      TEXT NOT NULL,
	epoch      INTEGER NOT NULL,
	generation INTEGER NOT NULL,
	lease      INTEGER NOT NULL, -- seconds
	on_expiry  TEXT NOT NULL CHECK (on_expiry IN ('remove', 'keep')),
	body       TEXT NOT NULL, -- JSON: nodes and instances
	PRIMARY KEY (zone, owner)
) STRICT;
