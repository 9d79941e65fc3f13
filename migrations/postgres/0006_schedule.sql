-- Messages that leave later. Each row holds a whole outbox row; when it is due, one transaction moves it into the outbox.
--
-- Grants: a bus with a schedule needs SELECT, INSERT, UPDATE and DELETE, and what the outbox asks for.

CREATE TABLE schedule (
  -- What cancels it, and what replaces it: the message id, or an id of its own for a message that is tried again later.
  id                 uuid        PRIMARY KEY,
  due_at             timestamptz NOT NULL,
  created_at         timestamptz NOT NULL DEFAULT now(),
  -- The columns of the outbox.
  message_id         uuid        NOT NULL,
  destination        text        NOT NULL,
  aggregatetype      text        NOT NULL,
  aggregateid        text,
  type               text        NOT NULL,
  payload            bytea,
  headers            jsonb       NOT NULL DEFAULT '{}',
  tracingspancontext text
);

-- "What is due, in order?" and "when is the next one?"
CREATE INDEX schedule_due ON schedule (due_at, id);

-- Vacuum by count, as the outbox: rows come and go, and what was moved must not be stepped over at every look.
ALTER TABLE schedule SET (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, vacuum_truncate = off,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000, toast.vacuum_truncate = off);
