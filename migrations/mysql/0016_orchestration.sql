-- Orchestrated sagas: steps that are done one after the other in several databases, and undone when one of them fails.
--
-- Grants: whoever carries out sagas needs SELECT, INSERT, UPDATE and DELETE on orchestration and orchestration_step in the database
-- of the sagas; in the database of each step SELECT, INSERT, UPDATE and DELETE on orchestration_marker.

CREATE TABLE IF NOT EXISTS orchestration (
  id            VARCHAR(36)  NOT NULL PRIMARY KEY,
  -- The name of the saga, and the version of its definition.
  name          VARCHAR(200) NOT NULL,
  version       INT          NOT NULL,
  status        VARCHAR(40)  NOT NULL,
  -- Whether it goes forward or back. Written once: what goes back never goes forward again.
  direction     VARCHAR(10)  NOT NULL DEFAULT 'forward',
  -- What it was started with, as JSON.
  data          LONGTEXT     NOT NULL,
  -- What an operator should know: why it goes back, or where it hangs.
  error         LONGTEXT,
  -- One more each time somebody takes it over. Whoever writes with an older one writes -1 here and fails.
  epoch         BIGINT       NOT NULL DEFAULT 0,
  lease_owner   VARCHAR(200),
  -- Nobody else takes it before this.
  lease_until   DATETIME(6),
  next_run_at   DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- Past it, it goes back as long as it can.
  deadline      DATETIME(6),
  started_at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  updated_at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  finished_at   DATETIME(6),
  CONSTRAINT orchestration_status CHECK (status IN ('running', 'compensating', 'completed', 'compensated',
    'requires_manual_intervention')),
  CONSTRAINT orchestration_direction CHECK (direction IN ('forward', 'back')),
  CONSTRAINT orchestration_epoch CHECK (epoch >= 0),
  -- What is due, and what retention removes.
  KEY orchestration_due (finished_at, next_run_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS orchestration_step (
  id            VARCHAR(36)  NOT NULL,
  ordinal       INT          NOT NULL,
  name          VARCHAR(200) NOT NULL,
  status        VARCHAR(40)  NOT NULL,
  -- Attempts of the action and of the compensation are counted apart.
  attempts      INT          NOT NULL DEFAULT 0,
  compensations INT          NOT NULL DEFAULT 0,
  -- Whether an attempt had no answer: its effect may be there.
  in_doubt      SMALLINT     NOT NULL DEFAULT 0,
  -- What the action returned, as JSON.
  output        LONGTEXT,
  error         LONGTEXT,
  updated_at    DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (id, ordinal),
  CONSTRAINT orchestration_step_saga FOREIGN KEY (id) REFERENCES orchestration (id) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- In the database of a step, in the transaction of its rows: 'done' says that its effect is there, 'refused' that it never will be.
CREATE TABLE IF NOT EXISTS orchestration_marker (
  id     VARCHAR(36)  NOT NULL,
  step   VARCHAR(200) NOT NULL,
  op     VARCHAR(20)  NOT NULL,
  state  VARCHAR(20)  NOT NULL,
  -- What the action returned, for whoever asks again.
  output LONGTEXT,
  at     DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  PRIMARY KEY (id, step, op),
  CONSTRAINT orchestration_marker_op CHECK (op IN ('action', 'compensation')),
  CONSTRAINT orchestration_marker_state CHECK (state IN ('done', 'refused'))
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
