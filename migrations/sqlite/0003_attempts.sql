-- How often a bus tried a message that it could not finish. A message that is handled at its first delivery never gets a
-- row here; a message that is done loses its row.

CREATE TABLE attempts (
  message_id BLOB    NOT NULL CHECK (length(message_id) = 16),
  -- The name of the bus.
  scope      TEXT    NOT NULL,
  attempts   INTEGER NOT NULL,
  -- What the failed attempts said, oldest first: JSON strings, separated by commas.
  errors     TEXT,
  updated_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (message_id, scope)
) STRICT, WITHOUT ROWID;
