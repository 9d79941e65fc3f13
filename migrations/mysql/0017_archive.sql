-- What was published, kept for a while by sources with after = "archive": a row is in the outbox, parked, or here.
--
-- Grants: a relay that archives needs SELECT, INSERT and DELETE. Whoever replays needs SELECT and DELETE, INSERT on every column
-- of outbox but seq, and INSERT on relay_audit.

CREATE TABLE IF NOT EXISTS relay_archive (
  -- In the order of publishing: what is too old is at the beginning, and is removed by ranges of this key.
  position           BIGINT        NOT NULL AUTO_INCREMENT PRIMARY KEY,
  source             VARCHAR(200)  NOT NULL,
  id                 BINARY(16)    NOT NULL,
  -- Where it was in the outbox.
  seq                BIGINT        NOT NULL,
  created_at         DATETIME(6)   NOT NULL,
  destination        VARCHAR(255)  NOT NULL,
  aggregatetype      VARCHAR(255)  NOT NULL,
  aggregateid        VARCHAR(1000),
  `type`             VARCHAR(255)  NOT NULL,
  payload            LONGBLOB,
  headers            LONGTEXT      NOT NULL,
  tracingspancontext TEXT,
  -- When it was moved here, soon after its confirm.
  published_at       DATETIME(6)   NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- "Where is this message?", "What was published of this key, in order?" and "What was published then?" A prefix of the key is
  -- enough to find it.
  KEY relay_archive_id (id),
  KEY relay_archive_key (aggregatetype(100), aggregateid(100), position),
  KEY relay_archive_published (source, published_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
