-- The event store: streams of events that are only ever added to, and a global order of all of them.

-- One row a stream: its version. Version 0 is a stream without events.
CREATE TABLE event_stream (
  stream      TEXT    NOT NULL PRIMARY KEY,
  version     INTEGER NOT NULL DEFAULT 0 CONSTRAINT event_stream_version CHECK (version >= 0),
  -- The transaction that has staged events for it: nobody else may append before it has ended.
  reserved_by TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE event_log (
  -- The order of the inserts, and not what anybody reads by.
  seq         INTEGER PRIMARY KEY AUTOINCREMENT,
  -- The global position, without gaps. Given after the commit, by who reads: NULL until then.
  position    INTEGER CONSTRAINT event_log_position UNIQUE,
  id          BLOB    NOT NULL CONSTRAINT event_log_id UNIQUE CHECK (length(id) = 16),
  stream      TEXT    NOT NULL,
  version     INTEGER NOT NULL,
  name        TEXT    NOT NULL,
  data        BLOB    NOT NULL,
  metadata    TEXT    NOT NULL DEFAULT '{}',
  recorded_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  CONSTRAINT event_log_version UNIQUE (stream, version)
) STRICT;

-- What has no position yet.
CREATE INDEX event_log_unordered ON event_log (seq) WHERE position IS NULL;

-- The last position that was given.
CREATE TABLE event_order (
  id   INTEGER PRIMARY KEY CHECK (id = 1),
  last INTEGER NOT NULL
) STRICT;
INSERT INTO event_order (id, last) VALUES (1, 0);

-- The newest state of a stream, once for each format that programs write.
CREATE TABLE event_snapshot (
  stream   TEXT    NOT NULL,
  format   INTEGER NOT NULL,
  version  INTEGER NOT NULL,
  data     BLOB    NOT NULL,
  taken_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (stream, format)
) STRICT, WITHOUT ROWID;

-- How far a subscription is, and who reads it.
CREATE TABLE event_checkpoint (
  subscription TEXT    NOT NULL PRIMARY KEY,
  -- Everything up to here was handled.
  position     INTEGER NOT NULL,
  -- Only the owner writes how far it is.
  owner        BLOB,
  lease_until  INTEGER,
  updated_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT, WITHOUT ROWID;

-- What became of a transaction that staged events: 'prepared', 'committed', 'aborted'. The last two are what late requests meet.
CREATE TABLE event_transaction (
  xid        TEXT    NOT NULL PRIMARY KEY,
  state      TEXT    NOT NULL,
  updated_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT, WITHOUT ROWID;
CREATE INDEX event_transaction_prepared ON event_transaction (xid) WHERE state = 'prepared';

-- Events of transactions that have prepared and not ended.
CREATE TABLE event_staged (
  xid      TEXT    NOT NULL,
  ordinal  INTEGER NOT NULL,
  -- Its number among those of its stream, from 1.
  number   INTEGER NOT NULL,
  id       BLOB    NOT NULL,
  stream   TEXT    NOT NULL,
  name     TEXT    NOT NULL,
  data     BLOB    NOT NULL,
  metadata TEXT    NOT NULL,
  PRIMARY KEY (xid, ordinal)
) STRICT, WITHOUT ROWID;
