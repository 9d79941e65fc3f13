-- Distributed transactions in people's hands: who did or was refused what, a name's history, and the view that users of other
-- systems know.
--
-- Grants: the home database needs SELECT, INSERT and DELETE on dtx_audit. Whoever only looks needs SELECT on distributed_transactions.

-- What people asked for, and what was refused to them. Stays when the transaction is forgotten.
CREATE TABLE dtx_audit (
  id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at        timestamptz NOT NULL DEFAULT now(),
  gid       text,
  name      text        NOT NULL,
  principal text        NOT NULL,
  action    text        NOT NULL,
  outcome   text        NOT NULL,
  reason    text        NOT NULL
);
CREATE INDEX dtx_audit_at ON dtx_audit (at);

-- What became of a name.
CREATE INDEX dtx_transaction_by_name ON dtx_transaction (name, started_at) WHERE name IS NOT NULL;

-- One row a transaction. partially_committed is derived: the decision stands, and some branches have not confirmed it.
CREATE VIEW distributed_transactions AS
SELECT coalesce(t.name, t.gid) AS id,
       CASE t.status
         WHEN 'active' THEN 'started' WHEN 'preparing' THEN 'started'
         WHEN 'prepared' THEN 'pending' WHEN 'pre_committed' THEN 'pending'
         WHEN 'aborting' THEN 'rolling_back' WHEN 'aborted' THEN 'rolled_back'
         WHEN 'committing' THEN CASE WHEN EXISTS (SELECT 1 FROM dtx_branch b WHERE b.gid = t.gid AND b.status = 'committed')
           THEN 'partially_committed' ELSE 'committing' END
         ELSE t.status END AS status,
       t.started_at AS created_at, t.cleaned_up_at, t.cleaned_up_reason, t.error_message
FROM dtx_transaction t;
