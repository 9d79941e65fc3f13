-- The lease of a source: what a standby needs to know before it takes over.
-- process: the owner as no other relay has it, and where its sign of life can be seen. renewals: changes while the owner lives.
-- lease_ms: how long its lease is, for a standby that is configured otherwise.
-- Only when the columns are not there: DDL ends its transaction here, and a step that was cut off is run again.
SET @barid_step = IF(
  EXISTS (SELECT 1 FROM information_schema.columns
    WHERE table_schema = DATABASE() AND table_name = 'relay_source' AND column_name = 'process'),
  'DO 0',
  'ALTER TABLE relay_source ADD COLUMN process VARCHAR(255), ADD COLUMN renewals BIGINT NOT NULL DEFAULT 0, ADD COLUMN lease_ms BIGINT NOT NULL DEFAULT 0');
PREPARE barid_step FROM @barid_step;
EXECUTE barid_step;
DEALLOCATE PREPARE barid_step;
