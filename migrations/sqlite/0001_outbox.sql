-- Messages that an application wants sent, written in the transaction that has the business rows.
--
-- The table is INSERT and DELETE only: there are no status, attempt or lock columns. The state of delivery lives in
-- relay_source and relay_parked. SQLite has one writer at a time, so the order of seq is the order of the commits.
--
-- Times are INTEGER, in milliseconds since 1970 UTC: they compare as numbers and nothing has to parse them.

CREATE TABLE outbox (
  -- AUTOINCREMENT: a seq is never used again after its row was deleted.
  seq                INTEGER PRIMARY KEY AUTOINCREMENT,
  -- The message id, made by the application: the 16 bytes of a UUID.
  id                 BLOB    NOT NULL CHECK (length(id) = 16),
  created_at         INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  -- queue:NAME or topic:NAME
  destination        TEXT    NOT NULL,
  -- With aggregateid: the ordering key.
  aggregatetype      TEXT    NOT NULL,
  -- NULL: unordered.
  aggregateid        TEXT,
  -- The message name.
  type               TEXT    NOT NULL,
  -- Opaque to the relay. NULL is a tombstone.
  payload            BLOB,
  headers            TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(headers)),
  -- W3C traceparent.
  tracingspancontext TEXT
) STRICT;
