-- Keys of things that are done once, with what came out: written in the transaction of their effects.
--
-- Grants: who uses keys needs SELECT, INSERT and UPDATE; who removes old ones also DELETE.

CREATE TABLE idempotency_keys (
  key          text        COLLATE "C" NOT NULL,
  -- Whose key it is.
  scope        text        COLLATE "C" NOT NULL DEFAULT '',
  created_at   timestamptz NOT NULL DEFAULT now(),
  -- What was asked for: the same key for something else is refused.
  request_hash bytea,
  -- What came out, as JSON.
  result       text,
  expires_at   timestamptz NOT NULL,
  PRIMARY KEY (key, scope)
) WITH (fillfactor = 80); -- the result is written last

-- What retention removes.
CREATE INDEX idempotency_keys_expired ON idempotency_keys (expires_at);
