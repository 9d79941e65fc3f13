-- How often a bus tried a message that it could not finish. A message that is handled at its first delivery never gets a
-- row here; a message that is done loses its row.

CREATE TABLE IF NOT EXISTS attempts (
  message_id BINARY(16)   NOT NULL,
  -- The name of the bus.
  scope      VARCHAR(200) NOT NULL,
  attempts   INT          NOT NULL,
  -- What the failed attempts said, oldest first: JSON strings, separated by commas.
  errors     TEXT,
  updated_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (message_id, scope)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
