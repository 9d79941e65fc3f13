-- What was published, kept for a while by sources with after = "archive": a row is in the outbox, parked, or here.

CREATE TABLE relay_archive (
  -- In the order of publishing: what is too old is at the beginning, and is removed by ranges of this key. AUTOINCREMENT: a
  -- position is never used again after its row was removed.
  position           INTEGER PRIMARY KEY AUTOINCREMENT,
  source             TEXT    NOT NULL,
  id                 BLOB    NOT NULL CHECK (length(id) = 16),
  -- Where it was in the outbox.
  seq                INTEGER NOT NULL,
  created_at         INTEGER NOT NULL,
  destination        TEXT    NOT NULL,
  aggregatetype      TEXT    NOT NULL,
  aggregateid        TEXT,
  type               TEXT    NOT NULL,
  payload            BLOB,
  headers            TEXT    NOT NULL,
  tracingspancontext TEXT,
  -- When it was moved here, soon after its confirm.
  published_at       INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT;

-- "Where is this message?", "What was published of this key, in order?" and "What was published then?"
CREATE INDEX relay_archive_id ON relay_archive (id);
CREATE INDEX relay_archive_key ON relay_archive (aggregatetype, aggregateid, position);
CREATE INDEX relay_archive_published ON relay_archive (source, published_at);
