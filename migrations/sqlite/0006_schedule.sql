-- Messages that leave later. Each row holds a whole outbox row; when it is due, one transaction moves it into the outbox.

CREATE TABLE schedule (
  -- What cancels it, and what replaces it: the message id, or an id of its own for a message that is tried again later.
  id                 BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  due_at             INTEGER NOT NULL,
  created_at         INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  -- The columns of the outbox.
  message_id         BLOB    NOT NULL CHECK (length(message_id) = 16),
  destination        TEXT    NOT NULL,
  aggregatetype      TEXT    NOT NULL,
  aggregateid        TEXT,
  type               TEXT    NOT NULL,
  payload            BLOB,
  headers            TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(headers)),
  tracingspancontext TEXT
) STRICT;

-- "What is due, in order?" and "when is the next one?"
CREATE INDEX schedule_due ON schedule (due_at, id);
