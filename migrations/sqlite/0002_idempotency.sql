-- One row for each message that a bus has handled, written in the transaction of its handlers: a row that can be seen is
-- the proof that the message had its effect.
--
-- The primary key is the table (WITHOUT ROWID): retention goes by range of the message id, which begins with a time (UUIDv7).

CREATE TABLE idempotency (
  message_id BLOB    NOT NULL CHECK (length(message_id) = 16),
  -- The name of the bus.
  scope      TEXT    NOT NULL,
  handled_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  -- What was answered, to be sent again on a duplicate.
  reply      BLOB,
  PRIMARY KEY (message_id, scope)
) STRICT, WITHOUT ROWID;
