-- Which queues get what is published to a topic, where publishers ask a store: one message for each row. The SQL queue as a
-- transport has a table of its own (queue_subscription), which only it reads.

CREATE TABLE subscription (
  topic         text        NOT NULL,
  queue         text        NOT NULL,
  subscribed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topic, queue)
);
