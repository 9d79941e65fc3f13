-- How often a bus tried a message that it could not finish. A message that is handled at its first delivery never gets a
-- row here; a message that is done loses its row.

CREATE TABLE attempts (
  message_id uuid        NOT NULL,
  -- The name of the bus.
  scope      text        NOT NULL,
  attempts   integer     NOT NULL,
  -- What the failed attempts said, oldest first: JSON strings, separated by commas.
  errors     text,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (message_id, scope)
) WITH (fillfactor = 70); -- room for the updates of a counter
