-- One row for each message that a bus has handled, written in the transaction of its handlers: a row that can be seen is
-- the proof that the message had its effect.
--
-- The primary key is the only index: retention goes by range of the message id, which begins with a time (UUIDv7).

CREATE TABLE idempotency (
  message_id uuid        NOT NULL,
  -- The name of the bus.
  scope      text        NOT NULL,
  handled_at timestamptz NOT NULL DEFAULT now(),
  -- What was answered, to be sent again on a duplicate.
  reply      bytea,
  PRIMARY KEY (message_id, scope)
);
