-- What became of a message, for those who poll for it: written in the transaction of its handlers, or when it is given up.
--
-- The primary key is the table (WITHOUT ROWID): retention walks along it.
CREATE TABLE result (
  message_id   BLOB    NOT NULL PRIMARY KEY CHECK (length(message_id) = 16),
  state        TEXT    NOT NULL CHECK (state IN ('accepted', 'succeeded', 'failed')),
  -- What was answered, with the name and the encoding of the answer; NULL when the handler answered nothing.
  name         TEXT,
  content_type TEXT,
  data         BLOB,
  -- Problem details (RFC 9457) of a message that was given up.
  problem      TEXT CHECK (json_valid(problem)),
  -- The bus that wrote the row last.
  bus          TEXT    NOT NULL,
  handled_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT, WITHOUT ROWID;

-- The last number that was handled of each key whose sender numbers its messages: one row a key instead of one a message.
CREATE TABLE high_water (
  -- UUIDv5 of source, aggregate and key.
  key_id       BLOB    NOT NULL CHECK (length(key_id) = 16),
  -- The name of the bus.
  scope        TEXT    NOT NULL,
  last         INTEGER NOT NULL,
  handled_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (key_id, scope)
) STRICT, WITHOUT ROWID;
