-- Keys of things that are done once, with what came out: written in the transaction of their effects.
--
-- Grants: who uses keys needs SELECT, INSERT and UPDATE; who removes old ones also DELETE.

CREATE TABLE IF NOT EXISTS idempotency_keys (
  `key`        VARCHAR(200) NOT NULL,
  -- Whose key it is.
  scope        VARCHAR(200) NOT NULL DEFAULT '',
  created_at   DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- What was asked for: the same key for something else is refused.
  request_hash VARBINARY(64),
  -- What came out, as JSON.
  result       LONGTEXT,
  expires_at   DATETIME(6)  NOT NULL,
  PRIMARY KEY (`key`, scope),
  -- What retention removes.
  KEY idempotency_keys_expired (expires_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
