-- The lease of a source: what a standby needs to know before it takes over.
-- process: the owner as no other relay has it, and where its sign of life can be seen. renewals: changes while the owner lives.
-- lease_ms: how long its lease is, for a standby that is configured otherwise.
ALTER TABLE relay_source ADD COLUMN process text, ADD COLUMN renewals bigint NOT NULL DEFAULT 0,
  ADD COLUMN lease_ms bigint NOT NULL DEFAULT 0;
