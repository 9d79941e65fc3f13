-- Distributed transactions in people's hands: who did or was refused what, a name's history, and the view that users of other
-- systems know.
--
-- Grants: the home database needs SELECT, INSERT and DELETE on dtx_audit. Whoever only looks needs SELECT on distributed_transactions.

-- What people asked for, and what was refused to them. Stays when the transaction is forgotten.
CREATE TABLE IF NOT EXISTS dtx_audit (
  id        BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
  at        DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  gid       VARCHAR(36),
  name      VARCHAR(200) NOT NULL,
  principal VARCHAR(200) NOT NULL,
  action    VARCHAR(200) NOT NULL,
  outcome   VARCHAR(200) NOT NULL,
  reason    LONGTEXT     NOT NULL,
  KEY dtx_audit_at (at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- One row a transaction. partially_committed is derived: the decision stands, and some branches have not confirmed it.
CREATE OR REPLACE VIEW distributed_transactions AS
SELECT COALESCE(t.name, t.gid) AS id,
       CASE t.status
         WHEN 'active' THEN 'started' WHEN 'preparing' THEN 'started'
         WHEN 'prepared' THEN 'pending' WHEN 'pre_committed' THEN 'pending'
         WHEN 'aborting' THEN 'rolling_back' WHEN 'aborted' THEN 'rolled_back'
         WHEN 'committing' THEN CASE WHEN EXISTS (SELECT 1 FROM dtx_branch b WHERE b.gid = t.gid AND b.status = 'committed')
           THEN 'partially_committed' ELSE 'committing' END
         ELSE t.status END AS status,
       t.started_at AS created_at, t.cleaned_up_at, t.cleaned_up_reason, t.error_message
FROM dtx_transaction t;

-- What became of a name. MySQL has no CREATE INDEX IF NOT EXISTS, and a run that was interrupted must be able to go on.
SET @barid_names = IF(
  EXISTS (SELECT 1 FROM information_schema.statistics
          WHERE table_schema = DATABASE() AND table_name = 'dtx_transaction' AND index_name = 'dtx_transaction_by_name'),
  'DO 0',
  'CREATE INDEX dtx_transaction_by_name ON dtx_transaction (name, started_at)');
PREPARE barid_names FROM @barid_names;
EXECUTE barid_names;
DEALLOCATE PREPARE barid_names;
