-- What each user needs, and nothing more. Make the users first, each with a password or a certificate of its own:
--   CREATE USER {app}; CREATE USER {relay}; CREATE USER {operator};
-- Run this in the database of the tables (USE ...), as an administrator.

-- The application writes messages, and can neither read nor change nor delete them. What else a bus keeps (idempotency, attempts,
-- sagas) is granted beside it, as the migrations say.
GRANT INSERT (id, created_at, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext)
  ON outbox TO {app};

-- The relay publishes and deletes messages. It cannot change what others wrote; it writes to the outbox only to put back what was
-- parked.
GRANT SELECT, INSERT, DELETE ON outbox TO {relay};
GRANT SELECT, INSERT, UPDATE ON relay_source TO {relay};
GRANT SELECT, INSERT, UPDATE, DELETE ON relay_parked TO {relay};
-- Where published messages are archived.
GRANT SELECT, INSERT, DELETE ON relay_archive TO {relay};
GRANT SELECT ON relay_released TO {relay};
GRANT SELECT ON barid_schema TO {relay};
-- To see the open transactions. Without it every read passes over the rows that purge has not removed yet.
GRANT PROCESS ON *.* TO {relay};

-- An operator looks at everything, and decides about parked messages; each decision leaves a line in relay_audit, which he can
-- write and not change.
GRANT SELECT ON outbox TO {operator};
GRANT SELECT ON relay_source TO {operator};
GRANT SELECT, UPDATE, DELETE ON relay_parked TO {operator};
GRANT SELECT, INSERT, UPDATE ON relay_released TO {operator};
GRANT SELECT ON relay_archive TO {operator};
GRANT SELECT, INSERT ON relay_audit TO {operator};
GRANT SELECT ON barid_schema TO {operator};

-- Whoever replays from the archive puts messages into the outbox, and could put any there. Grant it only to those who may:
--   GRANT DELETE ON relay_archive TO {operator};
--   GRANT INSERT (id, destination, aggregatetype, aggregateid, `type`, payload, headers, tracingspancontext)
--     ON outbox TO {operator};
