-- What became of a message, for those who poll for it: written in the transaction of its handlers, or when it is given up.
--
-- The primary key is the only index: retention walks along it.
CREATE TABLE IF NOT EXISTS result (
  message_id   BINARY(16)   NOT NULL PRIMARY KEY,
  state        VARCHAR(10)  NOT NULL CHECK (state IN ('accepted', 'succeeded', 'failed')),
  -- What was answered, with the name and the encoding of the answer; NULL when the handler answered nothing.
  name         VARCHAR(200),
  content_type VARCHAR(200),
  data         LONGBLOB,
  -- Problem details (RFC 9457) of a message that was given up.
  problem      LONGTEXT CHECK (JSON_VALID(problem)),
  -- The bus that wrote the row last.
  bus          VARCHAR(200) NOT NULL,
  handled_at   DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- The last number that was handled of each key whose sender numbers its messages: one row a key instead of one a message.
CREATE TABLE IF NOT EXISTS high_water (
  -- UUIDv5 of source, aggregate and key.
  key_id       BINARY(16)   NOT NULL,
  -- The name of the bus.
  scope        VARCHAR(200) NOT NULL,
  last         BIGINT       NOT NULL,
  -- Of the unit of work that wrote the row last: tells it whether the number was new.
  token        BINARY(16)   NOT NULL,
  handled_at   DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (key_id, scope)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
