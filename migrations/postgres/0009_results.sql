-- What became of a message, for those who poll for it: written in the transaction of its handlers, or when it is given up.
--
-- The primary key is the only index: retention walks along it.
CREATE TABLE result (
  message_id   uuid        PRIMARY KEY,
  state        text        NOT NULL CHECK (state IN ('accepted', 'succeeded', 'failed')),
  -- What was answered, with the name and the encoding of the answer; NULL when the handler answered nothing.
  name         text,
  content_type text,
  data         bytea,
  -- Problem details (RFC 9457) of a message that was given up.
  problem      jsonb,
  -- The bus that wrote the row last.
  bus          text        NOT NULL,
  handled_at   timestamptz NOT NULL DEFAULT now()
);

-- The last number that was handled of each key whose sender numbers its messages: one row a key instead of one a message.
CREATE TABLE high_water (
  -- UUIDv5 of source, aggregate and key.
  key_id       uuid        NOT NULL,
  -- The name of the bus.
  scope        text        NOT NULL,
  last         bigint      NOT NULL,
  handled_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (key_id, scope)
) WITH (fillfactor = 70); -- updated for every message, by no index
