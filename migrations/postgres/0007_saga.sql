-- Sagas: state that outlives a message, saved in the transaction of each message that changes it.
--
-- Grants: a bus with sagas needs SELECT, INSERT, UPDATE and DELETE on both tables.

CREATE TABLE saga (
  id              uuid        PRIMARY KEY,
  -- The name of the saga.
  saga            text        NOT NULL,
  -- One more with each update. Whoever saves a state that is not the newest writes -1 here and fails.
  revision        bigint      NOT NULL CONSTRAINT saga_revision CHECK (revision >= 0),
  -- The state as JSON. Gone once the saga is completed: the row then only says that it was.
  data            text,
  -- The timeouts that are still to come, as JSON.
  timeouts        text,
  completed_at    timestamptz,
  -- The message that wrote the row.
  last_message_id uuid        NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70); -- room for the updates

-- What retention removes.
CREATE INDEX saga_completed ON saga (completed_at) WHERE completed_at IS NOT NULL;

-- How a saga is found. They stay when it completes, so that a late start does not revive it.
CREATE TABLE saga_correlation (
  id       uuid NOT NULL REFERENCES saga (id) ON DELETE CASCADE,
  saga     text NOT NULL,
  property text NOT NULL,
  value    text NOT NULL,
  PRIMARY KEY (id, property),
  -- One saga a value, whoever starts at the same time.
  CONSTRAINT saga_correlation_value UNIQUE (saga, property, value)
);
