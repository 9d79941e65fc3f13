-- What a relay knows. It is kept apart from the outbox, so that the hot table is never updated.

-- Who may read a source. The epoch grows with every change of owner and fences writes of an earlier owner.
CREATE TABLE relay_source (
  source      text        PRIMARY KEY,
  epoch       bigint      NOT NULL DEFAULT 0,
  owner       text,
  lease_until timestamptz,
  updated_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 10); -- one row, renewed every few seconds

-- Messages that could not be delivered, and those of the same key that wait behind them.
CREATE TABLE relay_parked (
  source             text        NOT NULL,
  id                 uuid        NOT NULL,
  seq                bigint      NOT NULL,
  destination        text        NOT NULL,
  aggregatetype      text        NOT NULL,
  aggregateid        text,
  type               text        NOT NULL,
  payload            bytea,
  headers            jsonb       NOT NULL DEFAULT '{}',
  tracingspancontext text,
  created_at         timestamptz NOT NULL,
  -- poison: cannot be delivered, and holds its key. behind: could be, but not before an earlier row of its key.
  -- skipped: cannot be delivered, and its route holds nobody back for it.
  state              text        NOT NULL CHECK (state IN ('poison', 'behind', 'skipped')),
  attempts           integer     NOT NULL DEFAULT 0,
  last_error         text,
  parked_at          timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (source, id, seq)
);

-- "Which keys of this source are blocked, and what waits behind them, in order?"
CREATE INDEX relay_parked_key ON relay_parked (source, aggregatetype, aggregateid, seq);
