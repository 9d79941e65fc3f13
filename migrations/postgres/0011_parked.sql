-- Parked messages in an operator's hands: groups by what went wrong, a signal for the relay, and an account of who did what.
--
-- Grants: the relay needs SELECT, INSERT, UPDATE and DELETE on relay_parked, SELECT on relay_released, and INSERT on every
-- column of outbox but xid, to put back what was released. Whoever releases needs SELECT, UPDATE and DELETE on relay_parked,
-- SELECT, INSERT and UPDATE on relay_released, and INSERT on relay_audit.

-- The same for rows that failed in the same place in the same way: a hash of the error without its numbers, ids and
-- addresses. NULL: it did not fail itself, or it was parked before this column was.
ALTER TABLE relay_parked ADD COLUMN fingerprint text;

-- "Which keys are held, and from where on?" and "Does an earlier row hold this one?"
DROP INDEX relay_parked_key;
CREATE INDEX relay_parked_held ON relay_parked (source, state, aggregatetype, aggregateid, seq);
CREATE INDEX relay_parked_state ON relay_parked (source, state, seq, id);
CREATE INDEX relay_parked_fingerprint ON relay_parked (source, fingerprint, seq);

-- How often an operator released parked rows of a source. A relay that sees it change puts back what nobody holds. Apart from
-- relay_source, so that an operator's transaction never holds up the renewal of a lease.
CREATE TABLE relay_released (
  source text   PRIMARY KEY,
  times  bigint NOT NULL
);

-- What operators did to parked rows, written in the transaction that did it.
CREATE TABLE relay_audit (
  id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  changed_at timestamptz NOT NULL DEFAULT now(),
  source     text        NOT NULL,
  -- As the program was told, and as the database knows it.
  who        text        NOT NULL,
  db_user    text        NOT NULL DEFAULT current_user,
  -- retry, skip or purge
  action     text        NOT NULL,
  -- Which rows, in words.
  selection  text        NOT NULL,
  messages   bigint      NOT NULL,
  reason     text        NOT NULL
);
