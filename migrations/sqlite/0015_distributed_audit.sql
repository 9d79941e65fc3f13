-- Distributed transactions in people's hands: who did or was refused what, a name's history, and the view that users of other
-- systems know.

-- What people asked for, and what was refused to them. Stays when the transaction is forgotten.
CREATE TABLE dtx_audit (
  id        INTEGER PRIMARY KEY AUTOINCREMENT,
  at        INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
  gid       TEXT,
  name      TEXT    NOT NULL,
  principal TEXT    NOT NULL,
  action    TEXT    NOT NULL,
  outcome   TEXT    NOT NULL,
  reason    TEXT    NOT NULL
) STRICT;
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
