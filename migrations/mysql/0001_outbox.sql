-- Messages that an application wants sent, written in the transaction that has the business rows. For MariaDB 10.6 and
-- later and MySQL 8.0.16 and later.
--
-- The table is INSERT and DELETE only: there are no status, attempt or lock columns. The state of delivery lives in
-- relay_source and relay_parked. It has no secondary index, because every index is one more thing to write per message.
--
-- Times are UTC: DATETIME, which no session's time zone changes on the way out. Headers are LONGTEXT with a check, which is
-- what MariaDB's JSON is; MySQL's binary JSON would reorder them and refuse text that a driver sends as bytes.
--
-- Grants: the application needs INSERT on every column but seq; the relay needs SELECT and DELETE.

CREATE TABLE IF NOT EXISTS outbox (
  seq                BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
  -- The message id, made by the application: the 16 bytes of a UUID.
  id                 BINARY(16)    NOT NULL,
  created_at         DATETIME(6)   NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- queue:NAME or topic:NAME
  destination        VARCHAR(255)  NOT NULL,
  -- With aggregateid: the ordering key.
  aggregatetype      VARCHAR(255)  NOT NULL,
  -- NULL: unordered.
  aggregateid        VARCHAR(1000),
  -- The message name.
  `type`             VARCHAR(255)  NOT NULL,
  -- Opaque to the relay. NULL is a tombstone.
  payload            LONGBLOB,
  headers            LONGTEXT      NOT NULL DEFAULT ('{}') CHECK (JSON_VALID(headers)),
  -- W3C traceparent.
  tracingspancontext TEXT
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
