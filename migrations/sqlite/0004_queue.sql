-- The SQL queue: a transport for those who have a database and no broker.

-- Queues that somebody receives from. What is sent to another name is refused instead of waiting for nobody.
CREATE TABLE queue_declared (
  queue       TEXT    NOT NULL PRIMARY KEY,
  declared_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT, WITHOUT ROWID;

-- Which queues get what is published to a topic: one row of queue_message for each.
CREATE TABLE queue_subscription (
  topic TEXT NOT NULL,
  queue TEXT NOT NULL,
  PRIMARY KEY (topic, queue)
) STRICT, WITHOUT ROWID;

CREATE TABLE queue_message (
  -- AUTOINCREMENT: a seq is never used again, so an answer to a deleted message cannot settle another one.
  seq           INTEGER PRIMARY KEY AUTOINCREMENT,
  queue         TEXT    NOT NULL,
  -- The message id.
  id            BLOB    NOT NULL CHECK (length(id) = 16),
  -- NULL: unordered. A row is handed out only when no earlier row of its queue and key is left.
  ordering_key  TEXT,
  headers       TEXT    NOT NULL DEFAULT '{}' CHECK (json_valid(headers)),
  body          BLOB    NOT NULL,
  -- Not to be handed out before; moved by a nack.
  visible_at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  -- Which claim holds the row, and until when unless it is renewed. One id for each time that rows are claimed, so that an
  -- answer to an expired claim cannot settle a later one.
  claimed_by    BLOB,
  claimed_until INTEGER,
  -- How often it was handed out.
  deliveries    INTEGER NOT NULL DEFAULT 0,
  created_at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT;

-- Rows without a key are claimed from the front of their queue.
CREATE INDEX queue_message_queue ON queue_message (queue, seq) WHERE ordering_key IS NULL;
-- Rows with a key are claimed by the first row of each key. Looking at them from the front of the queue would pass every row
-- that waits behind another one of its key, for each claim.
CREATE INDEX queue_message_key ON queue_message (queue, ordering_key, seq) WHERE ordering_key IS NOT NULL;
