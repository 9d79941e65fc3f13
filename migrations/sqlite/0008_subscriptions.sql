-- Which queues get what is published to a topic, where publishers ask a store: one message for each row. The SQL queue as a
-- transport has a table of its own (queue_subscription), which only it reads.

CREATE TABLE subscription (
  topic         TEXT    NOT NULL,
  queue         TEXT    NOT NULL,
  subscribed_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (topic, queue)
) STRICT, WITHOUT ROWID;
