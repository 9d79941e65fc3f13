-- Orchestrated sagas: steps that are done one after the other in several databases, and undone when one of them fails.
--
-- Grants: whoever carries out sagas needs SELECT, INSERT, UPDATE and DELETE on orchestration and orchestration_step in the database
-- of the sagas; in the database of each step SELECT, INSERT, UPDATE and DELETE on orchestration_marker.

CREATE TABLE orchestration (
  id            text        PRIMARY KEY,
  -- The name of the saga, and the version of its definition.
  name          text        NOT NULL,
  version       integer     NOT NULL,
  status        text        NOT NULL CONSTRAINT orchestration_status CHECK (status IN ('running', 'compensating', 'completed',
                  'compensated', 'requires_manual_intervention')),
  -- Whether it goes forward or back. Written once: what goes back never goes forward again.
  direction     text        NOT NULL DEFAULT 'forward' CHECK (direction IN ('forward', 'back')),
  -- What it was started with, as JSON.
  data          text        NOT NULL,
  -- What an operator should know: why it goes back, or where it hangs.
  error         text,
  -- One more each time somebody takes it over. Whoever writes with an older one writes -1 here and fails.
  epoch         bigint      NOT NULL DEFAULT 0 CONSTRAINT orchestration_epoch CHECK (epoch >= 0),
  lease_owner   text,
  -- Nobody else takes it before this.
  lease_until   timestamptz,
  next_run_at   timestamptz NOT NULL DEFAULT now(),
  -- Past it, it goes back as long as it can.
  deadline      timestamptz,
  started_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  finished_at   timestamptz
) WITH (fillfactor = 70); -- room for the updates

-- What is due.
CREATE INDEX orchestration_due ON orchestration (next_run_at) WHERE finished_at IS NULL;
-- What retention removes.
CREATE INDEX orchestration_finished ON orchestration (finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE orchestration_step (
  id            text        NOT NULL REFERENCES orchestration (id) ON DELETE CASCADE,
  ordinal       integer     NOT NULL,
  name          text        NOT NULL,
  status        text        NOT NULL,
  -- Attempts of the action and of the compensation are counted apart.
  attempts      integer     NOT NULL DEFAULT 0,
  compensations integer     NOT NULL DEFAULT 0,
  -- Whether an attempt had no answer: its effect may be there.
  in_doubt      smallint    NOT NULL DEFAULT 0,
  -- What the action returned, as JSON.
  output        text,
  error         text,
  updated_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (id, ordinal)
);

-- In the database of a step, in the transaction of its rows: 'done' says that its effect is there, 'refused' that it never will be.
CREATE TABLE orchestration_marker (
  id     text        NOT NULL,
  step   text        NOT NULL,
  op     text        NOT NULL CHECK (op IN ('action', 'compensation')),
  state  text        NOT NULL CHECK (state IN ('done', 'refused')),
  -- What the action returned, for whoever asks again.
  output text,
  at     timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (id, step, op)
);
