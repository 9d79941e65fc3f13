-- What each role needs, and nothing more. Make the roles first, each with a password or a certificate of its own:
--   CREATE ROLE {app} LOGIN; CREATE ROLE {relay} LOGIN; CREATE ROLE {operator} LOGIN;
-- Run this as the owner of the tables, which is none of them: the owner may do everything.

-- The application writes messages, and can neither read nor change nor delete them. What else a bus keeps (idempotency, attempts,
-- sagas) is granted beside it, as the migrations say.
GRANT INSERT (id, created_at, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext)
  ON outbox TO {app};

-- The relay publishes and deletes messages. It cannot change what others wrote; it writes to the outbox only to put back what was
-- parked, and sets xid for rows that came from another server.
GRANT SELECT, DELETE ON outbox TO {relay};
GRANT UPDATE (xid) ON outbox TO {relay};
GRANT INSERT (seq, id, created_at, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext)
  ON outbox TO {relay};
GRANT SELECT, INSERT, UPDATE ON relay_source TO {relay};
GRANT SELECT, INSERT, UPDATE, DELETE ON relay_parked TO {relay};
-- Where published messages are archived.
GRANT SELECT, INSERT, DELETE ON relay_archive TO {relay};
GRANT SELECT ON relay_released, barid_schema TO {relay};
-- To tell how old the oldest transaction is and who holds it. Without it that metric is absent.
GRANT pg_read_all_stats TO {relay};

-- An operator looks at everything, and decides about parked messages; each decision leaves a line in relay_audit, which he can
-- write and not change.
GRANT SELECT ON outbox, relay_source, relay_parked, relay_released, relay_archive, relay_audit, barid_schema TO {operator};
GRANT UPDATE, DELETE ON relay_parked TO {operator};
GRANT INSERT, UPDATE ON relay_released TO {operator};
GRANT INSERT ON relay_audit TO {operator};

-- Whoever replays from the archive puts messages into the outbox, and could put any there. Grant it only to those who may:
--   GRANT DELETE ON relay_archive TO {operator};
--   GRANT INSERT (id, destination, aggregatetype, aggregateid, type, payload, headers, tracingspancontext)
--     ON outbox TO {operator};
