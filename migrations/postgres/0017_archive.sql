-- What was published, kept for a while by sources with after = "archive": a row is in the outbox, parked, or here.
--
-- Grants: a relay that archives needs SELECT, INSERT and DELETE. Whoever replays needs SELECT and DELETE, INSERT on every column
-- of outbox but xid and seq, and INSERT on relay_audit.

CREATE TABLE relay_archive (
  -- In the order of publishing: what is too old is at the beginning, and is removed by ranges of this key.
  position           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source             text        NOT NULL,
  id                 uuid        NOT NULL,
  -- Where it was in the outbox.
  seq                bigint      NOT NULL,
  created_at         timestamptz NOT NULL,
  destination        text        NOT NULL,
  aggregatetype      text        NOT NULL,
  aggregateid        text,
  type               text        NOT NULL,
  payload            bytea,
  headers            jsonb       NOT NULL,
  tracingspancontext text,
  -- When it was moved here, soon after its confirm.
  published_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- "Where is this message?", "What was published of this key, in order?" and "What was published then?"
CREATE INDEX relay_archive_id ON relay_archive (id);
CREATE INDEX relay_archive_key ON relay_archive (aggregatetype, aggregateid, position);
CREATE INDEX relay_archive_published ON relay_archive (source, published_at);
