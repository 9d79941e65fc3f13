-- Optional, PostgreSQL: one partition a day for the table idempotency. Retention then drops whole partitions instead of deleting
-- rows, which is worth it from some millions of messages a day; an insert costs the server a little more (about 5 % of what
-- a message costs it).
--
-- Apply it by hand, once, after `barid-relay schema apply`: it waits for every unit of work and copies the table. A bus that
-- keeps records makes the partitions of the coming days and drops the old ones, if its role owns the table; a role that may
-- not still works, with all rows in the partition `idempotency_default`, which is emptied in bounded batches.
--
-- A UUIDv7 begins with a time, and the days are ranges of it from 2020 to 2100. Ids of other versions lie outside of that, all
-- but one in a hundred, in partitions of their own: that keeps the default partition nearly empty, which PostgreSQL reads
-- through whenever a partition is added.
BEGIN;

LOCK TABLE idempotency IN ACCESS EXCLUSIVE MODE;
ALTER TABLE idempotency RENAME TO idempotency_before;
ALTER TABLE idempotency_before RENAME CONSTRAINT idempotency_pkey TO idempotency_before_pkey;

CREATE TABLE idempotency (
  message_id uuid        NOT NULL,
  scope      text        NOT NULL,
  handled_at timestamptz NOT NULL DEFAULT now(),
  reply      bytea,
  PRIMARY KEY (message_id, scope)
) PARTITION BY RANGE (message_id);

CREATE TABLE idempotency_low PARTITION OF idempotency
  FOR VALUES FROM (MINVALUE) TO ('016f5e66-e800-0000-0000-000000000000');
CREATE TABLE idempotency_high PARTITION OF idempotency
  FOR VALUES FROM ('03bb2cc3-d800-0000-0000-000000000000') TO (MAXVALUE);
CREATE TABLE idempotency_default PARTITION OF idempotency DEFAULT;

INSERT INTO idempotency (message_id, scope, handled_at, reply)
  SELECT message_id, scope, handled_at, reply FROM idempotency_before;
DROP TABLE idempotency_before;

COMMIT;
