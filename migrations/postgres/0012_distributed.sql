-- Distributed transactions: who takes part, what was decided, and what every branch leaves behind.
--
-- Every database that takes part has the same tables. Grants: the home database needs SELECT, INSERT, UPDATE and DELETE on all of
-- them; any other needs SELECT, INSERT and DELETE on dtx_marker.

-- Which log this is. A restore from a backup adds one to the epoch, so that nobody mistakes branches of lost transactions for its own.
CREATE TABLE dtx_coordinator (
  one   smallint PRIMARY KEY CHECK (one = 1),
  id    uuid     NOT NULL,
  epoch integer  NOT NULL DEFAULT 1 CHECK (epoch > 0)
);

CREATE TABLE dtx_transaction (
  gid               text        PRIMARY KEY,
  -- A name that a user chose; one transaction at a time has it.
  name              text,
  kind              text        NOT NULL CHECK (kind IN ('2pc', '3pc', 'tcc', 'best_effort')),
  tx_type           text,
  metadata          text,
  correlation_id    text,
  causation_id      text,
  principal         text,
  coordinator_id    text        NOT NULL,
  epoch             integer     NOT NULL DEFAULT 1,
  -- Whether the home database takes part with work of its own.
  home              smallint    NOT NULL DEFAULT 0,
  status            text        NOT NULL CONSTRAINT dtx_transaction_status CHECK (status IN ('active', 'preparing', 'prepared',
                      'pre_committed', 'committing', 'aborting', 'committed', 'aborted', 'heuristic_commit', 'heuristic_rollback',
                      'heuristic_mixed', 'heuristic_hazard', 'cleaned_up', 'requires_manual_intervention')),
  -- Written once. Whoever is late with a decision to commit writes something else here and fails.
  decision          text        CONSTRAINT dtx_transaction_decision CHECK (decision IN ('commit', 'abort')),
  decided_at        timestamptz,
  decision_reason   text,
  started_at        timestamptz NOT NULL DEFAULT now(),
  prepared_at       timestamptz,
  finished_at       timestamptz,
  -- Undecided after this, it is aborted.
  deadline          timestamptz NOT NULL,
  lease_owner       text,
  next_run_at       timestamptz NOT NULL,
  attempts          integer     NOT NULL DEFAULT 0,
  error_message     text,
  cleaned_up_at     timestamptz,
  cleaned_up_reason text
);

-- What recovery looks for.
CREATE INDEX dtx_transaction_due ON dtx_transaction (next_run_at) WHERE finished_at IS NULL;
-- What retention removes.
CREATE INDEX dtx_transaction_finished ON dtx_transaction (finished_at) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX dtx_transaction_name ON dtx_transaction (name) WHERE name IS NOT NULL AND finished_at IS NULL;

CREATE TABLE dtx_branch (
  gid           text        NOT NULL REFERENCES dtx_transaction (gid) ON DELETE CASCADE,
  ordinal       integer     NOT NULL,
  name          text        NOT NULL,
  kind          text        NOT NULL CHECK (kind IN ('two_phase', 'last')),
  resource_id   text        NOT NULL,
  resource_type text        NOT NULL,
  xid           text        NOT NULL,
  status        text        NOT NULL,
  error         text,
  updated_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (gid, ordinal)
);

-- What happened, for people.
CREATE TABLE dtx_event (
  id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  gid   text        NOT NULL,
  at    timestamptz NOT NULL DEFAULT now(),
  event text        NOT NULL,
  data  text
);
CREATE INDEX dtx_event_gid ON dtx_event (gid);

-- In the database of a branch: 'branch' committed with it; 'aborted' refuses a prepare that comes late.
CREATE TABLE dtx_marker (
  xid   text        PRIMARY KEY,
  state text        NOT NULL CHECK (state IN ('branch', 'aborted')),
  at    timestamptz NOT NULL DEFAULT now()
);
