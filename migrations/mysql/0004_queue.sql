-- The SQL queue: a transport for those who have a database and no broker.

-- Queues that somebody receives from. What is sent to another name is refused instead of waiting for nobody.
CREATE TABLE IF NOT EXISTS queue_declared (
  queue       VARCHAR(200) NOT NULL PRIMARY KEY,
  declared_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Which queues get what is published to a topic: one row of queue_message for each.
CREATE TABLE IF NOT EXISTS queue_subscription (
  topic VARCHAR(200) NOT NULL,
  queue VARCHAR(200) NOT NULL,
  PRIMARY KEY (topic, queue)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS queue_message (
  seq           BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
  queue         VARCHAR(200) NOT NULL,
  -- The message id.
  id            BINARY(16)   NOT NULL,
  -- NULL: unordered. A row is handed out only when no earlier row of its queue and key is left.
  ordering_key  VARCHAR(300),
  headers       LONGTEXT     NOT NULL DEFAULT ('{}') CHECK (JSON_VALID(headers)),
  body          LONGBLOB     NOT NULL,
  -- Not to be handed out before; moved by a nack.
  visible_at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- Which claim holds the row, and until when unless it is renewed. One id for each time that rows are claimed, so that an
  -- answer to an expired claim cannot settle a later one.
  claimed_by    BINARY(16),
  claimed_until DATETIME(6),
  -- How often it was handed out.
  deliveries    INT          NOT NULL DEFAULT 0,
  created_at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- Rows without a key are claimed from the front of their queue, rows with a key by the first row of each key. Looking at
  -- the latter from the front of the queue would pass every row that waits behind another one of its key, for each claim.
  KEY queue_message_key (queue, ordering_key, seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
