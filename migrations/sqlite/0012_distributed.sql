-- Distributed transactions: who takes part, what was decided, and what every branch leaves behind.
--
-- A SQLite file can be the home of a transaction or its last resource; it cannot be prepared.

-- Which log this is. A restore from a backup adds one to the epoch, so that nobody mistakes branches of lost transactions for its own.
CREATE TABLE dtx_coordinator (
  one   INTEGER PRIMARY KEY CHECK (one = 1),
  id    BLOB NOT NULL CHECK (length(id) = 16),
  epoch INTEGER  NOT NULL DEFAULT 1 CHECK (epoch > 0)
) STRICT;

CREATE TABLE dtx_transaction (
  gid               TEXT        NOT NULL PRIMARY KEY,
  -- A name that a user chose; one transaction at a time has it.
  name              TEXT,
  kind              TEXT        NOT NULL CHECK (kind IN ('2pc', '3pc', 'tcc', 'best_effort')),
  tx_type           TEXT,
  metadata          TEXT,
  correlation_id    TEXT,
  causation_id      TEXT,
  principal         TEXT,
  coordinator_id    TEXT        NOT NULL,
  epoch             INTEGER     NOT NULL DEFAULT 1,
  -- Whether the home database takes part with work of its own.
  home              INTEGER    NOT NULL DEFAULT 0,
  status            TEXT        NOT NULL CONSTRAINT dtx_transaction_status CHECK (status IN ('active', 'preparing', 'prepared',
                      'pre_committed', 'committing', 'aborting', 'committed', 'aborted', 'heuristic_commit', 'heuristic_rollback',
                      'heuristic_mixed', 'heuristic_hazard', 'cleaned_up', 'requires_manual_intervention')),
  -- Written once. Whoever is late with a decision to commit writes something else here and fails.
  decision          TEXT        CONSTRAINT dtx_transaction_decision CHECK (decision IN ('commit', 'abort')),
  decided_at        INTEGER,
  decision_reason   TEXT,
  started_at        INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  prepared_at       INTEGER,
  finished_at       INTEGER,
  -- Undecided after this, it is aborted.
  deadline          INTEGER NOT NULL,
  lease_owner       TEXT,
  next_run_at       INTEGER NOT NULL,
  attempts          INTEGER     NOT NULL DEFAULT 0,
  error_message     TEXT,
  cleaned_up_at     INTEGER,
  cleaned_up_reason TEXT
) STRICT;

-- What recovery looks for.
CREATE INDEX dtx_transaction_due ON dtx_transaction (next_run_at) WHERE finished_at IS NULL;
-- What retention removes.
CREATE INDEX dtx_transaction_finished ON dtx_transaction (finished_at) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX dtx_transaction_name ON dtx_transaction (name) WHERE name IS NOT NULL AND finished_at IS NULL;

CREATE TABLE dtx_branch (
  gid           TEXT        NOT NULL,
  ordinal       INTEGER     NOT NULL,
  name          TEXT        NOT NULL,
  kind          TEXT        NOT NULL CHECK (kind IN ('two_phase', 'last')),
  resource_id   TEXT        NOT NULL,
  resource_type TEXT        NOT NULL,
  xid           TEXT        NOT NULL,
  status        TEXT        NOT NULL,
  error         TEXT,
  updated_at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (gid, ordinal)
) STRICT;

-- What happened, for people.
CREATE TABLE dtx_event (
  id    INTEGER PRIMARY KEY AUTOINCREMENT,
  gid   TEXT        NOT NULL,
  at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  event TEXT        NOT NULL,
  data  TEXT
) STRICT;
CREATE INDEX dtx_event_gid ON dtx_event (gid);

-- In the database of a branch: 'branch' committed with it; 'aborted' refuses a prepare that comes late.
CREATE TABLE dtx_marker (
  xid   TEXT        NOT NULL PRIMARY KEY,
  state TEXT        NOT NULL CHECK (state IN ('branch', 'aborted')),
  at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
) STRICT;

-- A foreign key would be enforced only on connections that ask for it.
CREATE TRIGGER dtx_transaction_deleted AFTER DELETE ON dtx_transaction
BEGIN
  DELETE FROM dtx_branch WHERE gid = OLD.gid;
END;
