-- One row for each message that a bus has handled, written in the transaction of its handlers: a row that can be seen is
-- the proof that the message had its effect.
--
-- The primary key is the only index: retention goes by range of the message id, which begins with a time (UUIDv7).

CREATE TABLE IF NOT EXISTS idempotency (
  message_id BINARY(16)   NOT NULL,
  -- The name of the bus.
  scope      VARCHAR(200) NOT NULL,
  handled_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- What was answered, to be sent again on a duplicate.
  reply      LONGBLOB,
  PRIMARY KEY (message_id, scope)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
