-- Keys of things that are done once, with what came out: written in the transaction of their effects.
--
-- Grants: who uses keys needs SELECT, INSERT and UPDATE; who removes old ones also DELETE.

CREATE TABLE idempotency_keys (
  key          TEXT    NOT NULL,
  -- Whose key it is.
  scope        TEXT    NOT NULL DEFAULT '',
  created_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  -- What was asked for: the same key for something else is refused.
  request_hash BLOB,
  -- What came out, as JSON.
  result       TEXT,
  expires_at   INTEGER NOT NULL,
  PRIMARY KEY (key, scope)
) STRICT, WITHOUT ROWID;

-- What retention removes.
CREATE INDEX idempotency_keys_expired ON idempotency_keys (expires_at);
