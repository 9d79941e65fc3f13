-- Optional, PostgreSQL: wakes a relay whose source has listen = 'outbox', for programs that ring no doorbell.
--
--   SELECT barid_notify('outbox');
--
-- Call it after COMMIT, as a statement of its own, never inside the business transaction: NOTIFY holds a lock of the whole cluster until
-- the commit, which has cost up to 80 % of the commits. One caller at a time gets to that lock, the others return at once: the relay is
-- being woken already. A wake-up that is lost costs latency only, because a relay polls as well. Where the application's role may
-- not call it, nothing else is needed than SELECT pg_notify('outbox', '').
CREATE FUNCTION barid_notify(channel text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  -- Nothing is written: there is nothing to wait for on disk.
  PERFORM set_config('synchronous_commit', 'off', true);
  IF pg_try_advisory_xact_lock(hashtextextended('barid-notify ' || channel, 0)) THEN
    PERFORM pg_notify(channel, '');
  END IF;
END $$;
