-- The event store: streams of events that are only ever added to, and a global order of all of them.
--
-- Grants: who appends needs SELECT and INSERT on event_log and SELECT, INSERT and UPDATE on event_stream; who reads all streams
-- also UPDATE on event_log (position) and event_order. DELETE is needed on the staged tables only.

-- One row a stream: its version, which who appends locks. Version 0 is a stream without events. Names of streams are UTF-8 and
-- not text: there, a name and the same name with a space behind it would be one.
CREATE TABLE IF NOT EXISTS event_stream (
  stream      VARBINARY(200) NOT NULL PRIMARY KEY,
  version     BIGINT         NOT NULL DEFAULT 0,
  -- The transaction that has staged events for it: nobody else may append before it has ended.
  reserved_by VARCHAR(200),
  CONSTRAINT event_stream_version CHECK (version >= 0)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS event_log (
  -- The order of the inserts, with gaps, and not the order in which they commit: nobody reads by it.
  seq         BIGINT         NOT NULL AUTO_INCREMENT PRIMARY KEY,
  -- The global position, without gaps. Given after the commit, by who reads: NULL until then.
  position    BIGINT,
  id          BINARY(16)     NOT NULL,
  stream      VARBINARY(200) NOT NULL,
  version     BIGINT         NOT NULL,
  name        VARCHAR(200)   NOT NULL,
  data        LONGBLOB       NOT NULL,
  metadata    LONGTEXT       NOT NULL,
  recorded_at DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  CONSTRAINT event_log_position UNIQUE (position),
  CONSTRAINT event_log_id UNIQUE (id),
  CONSTRAINT event_log_version UNIQUE (stream, version)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- The last position that was given. Who gives positions locks the row.
CREATE TABLE IF NOT EXISTS event_order (
  id   INT    NOT NULL PRIMARY KEY,
  last BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
INSERT INTO event_order (id, last) VALUES (1, 0) ON DUPLICATE KEY UPDATE id = 1;

-- The newest state of a stream, once for each format that programs write.
CREATE TABLE IF NOT EXISTS event_snapshot (
  stream   VARBINARY(200) NOT NULL,
  format   BIGINT         NOT NULL,
  version  BIGINT         NOT NULL,
  data     LONGBLOB       NOT NULL,
  taken_at DATETIME(6)    NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (stream, format)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- How far a subscription is, and who reads it.
CREATE TABLE IF NOT EXISTS event_checkpoint (
  subscription VARCHAR(200) NOT NULL PRIMARY KEY,
  -- Everything up to here was handled.
  position     BIGINT       NOT NULL,
  -- Only the owner writes how far it is.
  owner        BINARY(16),
  lease_until  DATETIME(6),
  updated_at   DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- What became of a transaction that staged events: 'prepared', 'committed', 'aborted'. The last two are what late requests meet.
CREATE TABLE IF NOT EXISTS event_transaction (
  xid        VARCHAR(200) NOT NULL PRIMARY KEY,
  state      VARCHAR(20)  NOT NULL,
  updated_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  KEY event_transaction_prepared (state)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Events of transactions that have prepared and not ended.
CREATE TABLE IF NOT EXISTS event_staged (
  xid      VARCHAR(200)   NOT NULL,
  ordinal  BIGINT         NOT NULL,
  -- Its number among those of its stream, from 1.
  number   BIGINT         NOT NULL,
  id       BINARY(16)     NOT NULL,
  stream   VARBINARY(200) NOT NULL,
  name     VARCHAR(200)   NOT NULL,
  data     LONGBLOB       NOT NULL,
  metadata LONGTEXT       NOT NULL,
  PRIMARY KEY (xid, ordinal)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
