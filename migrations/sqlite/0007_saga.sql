-- Sagas: state that outlives a message, saved in the transaction of each message that changes it.

CREATE TABLE saga (
  id              BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  -- The name of the saga.
  saga            TEXT    NOT NULL,
  -- One more with each update. Whoever saves a state that is not the newest writes -1 here and fails.
  revision        INTEGER NOT NULL CONSTRAINT saga_revision CHECK (revision >= 0),
  -- The state as JSON. Gone once the saga is completed: the row then only says that it was.
  data            TEXT,
  -- The timeouts that are still to come, as JSON.
  timeouts        TEXT,
  completed_at    INTEGER,
  -- The message that wrote the row.
  last_message_id BLOB    NOT NULL CHECK (length(last_message_id) = 16),
  created_at      INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  updated_at      INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT;

-- What retention removes.
CREATE INDEX saga_completed ON saga (completed_at) WHERE completed_at IS NOT NULL;

-- How a saga is found. They stay when it completes, so that a late start does not revive it.
CREATE TABLE saga_correlation (
  id       BLOB NOT NULL CHECK (length(id) = 16),
  saga     TEXT NOT NULL,
  property TEXT NOT NULL,
  value    TEXT NOT NULL,
  PRIMARY KEY (id, property),
  -- One saga a value, whoever starts at the same time.
  CONSTRAINT saga_correlation_value UNIQUE (saga, property, value)
) STRICT, WITHOUT ROWID;

-- A foreign key would be enforced only on connections that ask for it.
CREATE TRIGGER saga_deleted AFTER DELETE ON saga
BEGIN
  DELETE FROM saga_correlation WHERE id = OLD.id;
END;
