-- Messages that leave later. Each row holds a whole outbox row; when it is due, one transaction moves it into the outbox.
--
-- Grants: a bus with a schedule needs SELECT, INSERT, UPDATE and DELETE, and what the outbox asks for.

CREATE TABLE IF NOT EXISTS schedule (
  -- What cancels it, and what replaces it: the message id, or an id of its own for a message that is tried again later.
  id                 BINARY(16)    NOT NULL PRIMARY KEY,
  due_at             DATETIME(6)   NOT NULL,
  created_at         DATETIME(6)   NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  -- The columns of the outbox.
  message_id         BINARY(16)    NOT NULL,
  destination        VARCHAR(255)  NOT NULL,
  aggregatetype      VARCHAR(255)  NOT NULL,
  aggregateid        VARCHAR(1000),
  `type`             VARCHAR(255)  NOT NULL,
  payload            LONGBLOB,
  headers            LONGTEXT      NOT NULL DEFAULT ('{}') CHECK (JSON_VALID(headers)),
  tracingspancontext TEXT,
  -- "What is due, in order?" and "when is the next one?"
  KEY schedule_due (due_at, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;
