-- Which queues get what is published to a topic, where publishers ask a store: one message for each row. The SQL queue as a
-- transport has a table of its own (queue_subscription), which only it reads.

CREATE TABLE IF NOT EXISTS subscription (
  topic         VARCHAR(200) NOT NULL,
  queue         VARCHAR(200) NOT NULL,
  subscribed_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (topic, queue)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
