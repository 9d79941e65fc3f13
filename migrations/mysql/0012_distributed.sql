-- Distributed transactions: who takes part, what was decided, and what every branch leaves behind.
--
-- Every database that takes part has the same tables. Grants: the home database needs SELECT, INSERT, UPDATE and DELETE on all of
-- them; any other needs SELECT, INSERT and DELETE on dtx_marker.

-- Which log this is. A restore from a backup adds one to the epoch, so that nobody mistakes branches of lost transactions for its own.
CREATE TABLE IF NOT EXISTS dtx_coordinator (
  one   SMALLINT NOT NULL PRIMARY KEY CHECK (one = 1),
  id    BINARY(16) NOT NULL,
  epoch INT NOT NULL DEFAULT 1 CHECK (epoch > 0)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS dtx_transaction (
  gid               VARCHAR(36)  NOT NULL PRIMARY KEY,
  -- A name that a user chose; one transaction at a time has it.
  name              VARCHAR(200),
  kind              VARCHAR(200) NOT NULL CHECK (kind IN ('2pc', '3pc', 'tcc', 'best_effort')),
  tx_type           VARCHAR(200),
  metadata          LONGTEXT,
  correlation_id    VARCHAR(200),
  causation_id      VARCHAR(200),
  principal         VARCHAR(200),
  coordinator_id    VARCHAR(200) NOT NULL,
  epoch             INT     NOT NULL DEFAULT 1,
  -- Whether the home database takes part with work of its own.
  home              SMALLINT    NOT NULL DEFAULT 0,
  status            VARCHAR(200) NOT NULL CHECK (status IN ('active', 'preparing', 'prepared',
                      'pre_committed', 'committing', 'aborting', 'committed', 'aborted', 'heuristic_commit', 'heuristic_rollback',
                      'heuristic_mixed', 'heuristic_hazard', 'cleaned_up', 'requires_manual_intervention')),
  -- Written once. Whoever is late with a decision to commit writes something else here and fails.
  decision          VARCHAR(200),
  decided_at        DATETIME(6),
  decision_reason   LONGTEXT,
  started_at        DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  prepared_at       DATETIME(6),
  finished_at       DATETIME(6),
  -- Undecided after this, it is aborted.
  deadline          DATETIME(6) NOT NULL,
  lease_owner       VARCHAR(200),
  next_run_at       DATETIME(6) NOT NULL,
  attempts          INT     NOT NULL DEFAULT 0,
  error_message     LONGTEXT,
  cleaned_up_at     DATETIME(6),
  cleaned_up_reason LONGTEXT,
  -- The name of a transaction that is not over: MariaDB has no partial indexes.
  open_name         VARCHAR(200) AS (IF(finished_at IS NULL, name, NULL)) VIRTUAL,
  CONSTRAINT dtx_transaction_decision CHECK (decision IN ('commit', 'abort')),
  UNIQUE KEY dtx_transaction_name (open_name),
  -- What recovery looks for, and what retention removes.
  KEY dtx_transaction_due (finished_at, next_run_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS dtx_branch (
  gid           VARCHAR(36)  NOT NULL,
  ordinal       INT     NOT NULL,
  name          VARCHAR(200) NOT NULL,
  kind          VARCHAR(200) NOT NULL CHECK (kind IN ('two_phase', 'last')),
  resource_id   VARCHAR(200) NOT NULL,
  resource_type VARCHAR(200) NOT NULL,
  xid           VARCHAR(200) NOT NULL,
  status        VARCHAR(200) NOT NULL,
  error         LONGTEXT,
  updated_at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (gid, ordinal),
  CONSTRAINT dtx_branch_transaction FOREIGN KEY (gid) REFERENCES dtx_transaction (gid) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- What happened, for people.
CREATE TABLE IF NOT EXISTS dtx_event (
  id    BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
  gid   VARCHAR(36)  NOT NULL,
  at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  event VARCHAR(200) NOT NULL,
  data  LONGTEXT,
  KEY dtx_event_gid (gid)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- In the database of a branch: 'branch' committed with it; 'aborted' refuses a prepare that comes late.
CREATE TABLE IF NOT EXISTS dtx_marker (
  xid   VARCHAR(200) NOT NULL PRIMARY KEY,
  state VARCHAR(200) NOT NULL CHECK (state IN ('branch', 'aborted')),
  at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
