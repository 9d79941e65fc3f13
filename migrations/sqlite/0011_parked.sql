-- Parked messages in an operator's hands: groups by what went wrong, a signal for the relay, and an account of who did what.

-- The same for rows that failed in the same place in the same way: a hash of the error without its numbers, ids and
-- addresses. NULL: it did not fail itself, or it was parked before this column was.
ALTER TABLE relay_parked ADD COLUMN fingerprint TEXT;

-- "Which keys are held, and from where on?" and "Does an earlier row hold this one?"
DROP INDEX relay_parked_key;
CREATE INDEX relay_parked_held ON relay_parked (source, state, aggregatetype, aggregateid, seq);
CREATE INDEX relay_parked_state ON relay_parked (source, state, seq, id);
CREATE INDEX relay_parked_fingerprint ON relay_parked (source, fingerprint, seq);

-- How often an operator released parked rows of a source. A relay that sees it change puts back what nobody holds.
CREATE TABLE relay_released (
  source TEXT    NOT NULL PRIMARY KEY,
  times  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What operators did to parked rows, written in the transaction that did it.
CREATE TABLE relay_audit (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  changed_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  source     TEXT    NOT NULL,
  -- As the program was told, and as the database knows it: SQLite knows nobody.
  who        TEXT    NOT NULL,
  db_user    TEXT    NOT NULL DEFAULT '',
  -- retry, skip or purge
  action     TEXT    NOT NULL,
  -- Which rows, in words.
  selection  TEXT    NOT NULL,
  messages   INTEGER NOT NULL,
  reason     TEXT    NOT NULL
) STRICT;
