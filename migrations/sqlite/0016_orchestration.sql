-- Orchestrated sagas: steps that are done one after the other in several databases, and undone when one of them fails.

CREATE TABLE orchestration (
  id            TEXT    NOT NULL PRIMARY KEY,
  -- The name of the saga, and the version of its definition.
  name          TEXT    NOT NULL,
  version       INTEGER NOT NULL,
  status        TEXT    NOT NULL CONSTRAINT orchestration_status CHECK (status IN ('running', 'compensating', 'completed',
                  'compensated', 'requires_manual_intervention')),
  -- Whether it goes forward or back. Written once: what goes back never goes forward again.
  direction     TEXT    NOT NULL DEFAULT 'forward' CHECK (direction IN ('forward', 'back')),
  -- What it was started with, as JSON.
  data          TEXT    NOT NULL,
  -- What an operator should know: why it goes back, or where it hangs.
  error         TEXT,
  -- One more each time somebody takes it over. Whoever writes with an older one writes -1 here and fails.
  epoch         INTEGER NOT NULL DEFAULT 0 CONSTRAINT orchestration_epoch CHECK (epoch >= 0),
  lease_owner   TEXT,
  -- Nobody else takes it before this.
  lease_until   INTEGER,
  next_run_at   INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  -- Past it, it goes back as long as it can.
  deadline      INTEGER,
  started_at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  updated_at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  finished_at   INTEGER
) STRICT;

-- What is due.
CREATE INDEX orchestration_due ON orchestration (next_run_at) WHERE finished_at IS NULL;
-- What retention removes.
CREATE INDEX orchestration_finished ON orchestration (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE orchestration_step (
  id            TEXT    NOT NULL,
  ordinal       INTEGER NOT NULL,
  name          TEXT    NOT NULL,
  status        TEXT    NOT NULL,
  -- Attempts of the action and of the compensation are counted apart.
  attempts      INTEGER NOT NULL DEFAULT 0,
  compensations INTEGER NOT NULL DEFAULT 0,
  -- Whether an attempt had no answer: its effect may be there.
  in_doubt      INTEGER NOT NULL DEFAULT 0,
  -- What the action returned, as JSON.
  output        TEXT,
  error         TEXT,
  updated_at    INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (id, ordinal)
) STRICT;

-- In the database of a step, in the transaction of its rows: 'done' says that its effect is there, 'refused' that it never will be.
CREATE TABLE orchestration_marker (
  id     TEXT    NOT NULL,
  step   TEXT    NOT NULL,
  op     TEXT    NOT NULL CHECK (op IN ('action', 'compensation')),
  state  TEXT    NOT NULL CHECK (state IN ('done', 'refused')),
  -- What the action returned, for whoever asks again.
  output TEXT,
  at     INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  PRIMARY KEY (id, step, op)
) STRICT, WITHOUT ROWID;

-- A foreign key would be enforced only on connections that ask for it.
CREATE TRIGGER orchestration_deleted AFTER DELETE ON orchestration
BEGIN
  DELETE FROM orchestration_step WHERE id = OLD.id;
END;
