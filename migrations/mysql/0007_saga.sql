-- Sagas: state that outlives a message, saved in the transaction of each message that changes it.
--
-- Grants: a bus with sagas needs SELECT, INSERT, UPDATE and DELETE on both tables.

CREATE TABLE IF NOT EXISTS saga (
  id              BINARY(16)   NOT NULL PRIMARY KEY,
  -- The name of the saga.
  saga            VARCHAR(200) NOT NULL,
  -- One more with each update. Whoever saves a state that is not the newest writes -1 here and fails.
  revision        BIGINT       NOT NULL,
  -- The state as JSON. Gone once the saga is completed: the row then only says that it was.
  data            LONGTEXT,
  -- The timeouts that are still to come, as JSON.
  timeouts        LONGTEXT,
  completed_at    DATETIME(6),
  -- The message that wrote the row.
  last_message_id BINARY(16)   NOT NULL,
  created_at      DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  updated_at      DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  CONSTRAINT saga_revision CHECK (revision >= 0),
  -- What retention removes.
  KEY saga_completed (completed_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- How a saga is found. They stay when it completes, so that a late start does not revive it.
CREATE TABLE IF NOT EXISTS saga_correlation (
  id       BINARY(16)     NOT NULL,
  saga     VARCHAR(200)   NOT NULL,
  property VARCHAR(200)   NOT NULL,
  -- UTF-8. Not text: there, a value and the same value with a space behind it would be one.
  value    VARBINARY(200) NOT NULL,
  PRIMARY KEY (id, property),
  -- One saga a value, whoever starts at the same time.
  CONSTRAINT saga_correlation_value UNIQUE (saga, property, value),
  CONSTRAINT saga_correlation_saga FOREIGN KEY (id) REFERENCES saga (id) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
