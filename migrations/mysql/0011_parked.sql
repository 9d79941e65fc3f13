-- Parked messages in an operator's hands: groups by what went wrong, a signal for the relay, and an account of who did what.
--
-- Grants: the relay needs SELECT, INSERT, UPDATE and DELETE on relay_parked, SELECT on relay_released, and INSERT on outbox,
-- to put back what was released. Whoever releases needs SELECT, UPDATE and DELETE on relay_parked, SELECT, INSERT and UPDATE
-- on relay_released, and INSERT on relay_audit.

-- How often an operator released parked rows of a source. A relay that sees it change puts back what nobody holds. Apart from
-- relay_source, so that an operator's transaction never holds up the renewal of a lease.
CREATE TABLE IF NOT EXISTS relay_released (
  source VARCHAR(200) NOT NULL PRIMARY KEY,
  times  BIGINT       NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- What operators did to parked rows, written in the transaction that did it.
CREATE TABLE IF NOT EXISTS relay_audit (
  id         BIGINT       NOT NULL AUTO_INCREMENT PRIMARY KEY,
  changed_at DATETIME(6)  NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
  source     VARCHAR(200) NOT NULL,
  -- As the program was told, and as the database knows it.
  who        VARCHAR(255) NOT NULL,
  db_user    VARCHAR(400) NOT NULL,
  -- retry, skip or purge
  action     VARCHAR(10)  NOT NULL,
  -- Which rows, in words.
  selection  TEXT         NOT NULL,
  messages   BIGINT       NOT NULL,
  reason     TEXT         NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

-- fingerprint is the same for rows that failed in the same place in the same way: a hash of the error without its numbers, ids
-- and addresses. NULL: it did not fail itself, or it was parked before this column was.
-- The keys: "Which keys are held, and from where on?" and "Does an earlier row hold this one?"
-- MySQL has no ADD COLUMN IF NOT EXISTS, and a run that was interrupted must be able to go on.
SET @barid_parked = IF(
  EXISTS (SELECT 1 FROM information_schema.columns
          WHERE table_schema = DATABASE() AND table_name = 'relay_parked' AND column_name = 'fingerprint'),
  'DO 0',
  'ALTER TABLE relay_parked ADD COLUMN fingerprint VARCHAR(16), DROP KEY relay_parked_key,
     ADD KEY relay_parked_held (source, state, aggregatetype(100), aggregateid(100), seq),
     ADD KEY relay_parked_state (source, state, seq, id), ADD KEY relay_parked_fingerprint (source, fingerprint, seq)');
PREPARE barid_parked FROM @barid_parked;
EXECUTE barid_parked;
DEALLOCATE PREPARE barid_parked;
