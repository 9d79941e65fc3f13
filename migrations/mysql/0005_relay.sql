-- What a relay knows. It is kept apart from the outbox, so that the hot table is never updated.

-- Who may read a source. The epoch grows with every change of owner and fences writes of an earlier owner.
CREATE TABLE IF NOT EXISTS relay_source (
  source      VARCHAR(200) NOT NULL PRIMARY KEY,
  epoch       BIGINT       NOT NULL DEFAULT 0,
  owner       VARCHAR(255),
  lease_until DATETIME(6),
  updated_at  DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- Messages that could not be delivered, and those of the same key that wait behind them.
CREATE TABLE IF NOT EXISTS relay_parked (
  source             VARCHAR(200)  NOT NULL,
  id                 BINARY(16)    NOT NULL,
  seq                BIGINT        NOT NULL,
  destination        VARCHAR(255)  NOT NULL,
  aggregatetype      VARCHAR(255)  NOT NULL,
  aggregateid        VARCHAR(1000),
  `type`             VARCHAR(255)  NOT NULL,
  payload            LONGBLOB,
  headers            LONGTEXT      NOT NULL DEFAULT ('{}') CHECK (JSON_VALID(headers)),
  tracingspancontext TEXT,
  created_at         DATETIME(6)   NOT NULL,
  -- poison: cannot be delivered, and holds its key. behind: could be, but not before an earlier row of its key.
  -- skipped: cannot be delivered, and its route holds nobody back for it.
  state              VARCHAR(10)   NOT NULL CHECK (state IN ('poison', 'behind', 'skipped')),
  attempts           INT           NOT NULL DEFAULT 0,
  last_error         TEXT,
  parked_at          DATETIME(6)   NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (source, id, seq),
  -- "Which keys of this source are blocked, and what waits behind them, in order?" A prefix of the id is enough to find them.
  KEY relay_parked_key (source, aggregatetype(100), aggregateid(100), seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
