-- What a relay knows. It is kept apart from the outbox, so that the hot table is never updated.

-- Who may read a source. The epoch grows with every change of owner and fences writes of an earlier owner.
CREATE TABLE relay_source (
  source      TEXT    NOT NULL PRIMARY KEY,
  epoch       INTEGER NOT NULL DEFAULT 0,
  owner       TEXT,
  lease_until INTEGER,
  updated_at  INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT, WITHOUT ROWID;

-- Messages that could not be delivered, and those of the same key that wait behind them.
CREATE TABLE relay_parked (
  source             TEXT    NOT NULL,
  id                 BLOB    NOT NULL CHECK (length(id) = 16),
  seq                INTEGER NOT NULL,
  destination        TEXT    NOT NULL,
  aggregatetype      TEXT    NOT NULL,
  aggregateid        TEXT,
  type               TEXT    NOT NULL,
  payload            BLOB,
  headers            TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(headers)),
  tracingspancontext TEXT,
  created_at         INTEGER NOT NULL,
  -- poison: cannot be delivered, and holds its key. behind: could be, but not before an earlier row of its key.
  -- skipped: cannot be delivered, and its route holds nobody back for it.
  state              TEXT    NOT NULL CHECK (state IN ('poison', 'behind', 'skipped')),
  attempts           INTEGER NOT NULL DEFAULT 0,
  last_error         TEXT,
  parked_at          INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (source, id, seq)
) STRICT;

-- "Which keys of this source are blocked, and what waits behind them, in order?"
CREATE INDEX relay_parked_key ON relay_parked (source, aggregatetype, aggregateid, seq);
