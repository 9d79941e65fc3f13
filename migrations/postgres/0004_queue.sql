-- The SQL queue: a transport for those who have a database and no broker.

-- Queues that somebody receives from. What is sent to another name is refused instead of waiting for nobody.
CREATE TABLE queue_declared (
  queue       text        PRIMARY KEY,
  declared_at timestamptz NOT NULL DEFAULT now()
);

-- Which queues get what is published to a topic: one row of queue_message for each.
CREATE TABLE queue_subscription (
  topic text NOT NULL,
  queue text NOT NULL,
  PRIMARY KEY (topic, queue)
);

CREATE TABLE queue_message (
  seq           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  queue         text        NOT NULL,
  -- The message id.
  id            uuid        NOT NULL,
  -- NULL: unordered. A row is handed out only when no earlier row of its queue and key is left.
  -- Sorted as bytes, as the consumers do.
  ordering_key  text        COLLATE "C",
  headers       jsonb       NOT NULL DEFAULT '{}',
  body          bytea       NOT NULL,
  -- Not to be handed out before; moved by a nack.
  visible_at    timestamptz NOT NULL DEFAULT now(),
  -- Which claim holds the row, and until when unless it is renewed. One id for each time that rows are claimed, so that an
  -- answer to an expired claim cannot settle a later one.
  claimed_by    uuid,
  claimed_until timestamptz,
  -- How often it was handed out.
  deliveries    integer     NOT NULL DEFAULT 0,
  created_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70); -- a claim is an update that no index sees: leave room for it on the page

-- Rows without a key are claimed from the front of their queue.
CREATE INDEX queue_message_queue ON queue_message (queue, seq) WHERE ordering_key IS NULL;
-- Rows with a key are claimed by the first row of each key. Looking at them from the front of the queue would pass every row
-- that waits behind another one of its key, for each claim: 1.7 s with 50,000 rows of one key.
CREATE INDEX queue_message_key ON queue_message (queue, ordering_key, seq) WHERE ordering_key IS NOT NULL;

-- Every message is inserted, updated and deleted: vacuum by count, as for the outbox.
ALTER TABLE queue_message SET (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
  vacuum_truncate = off,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000, toast.vacuum_truncate = off);
