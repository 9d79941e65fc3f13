//! The statements of the queue on PostgreSQL.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    error,
    queue::{Claim, Claimed, NewRow, Statements, Targets, micros},
};
use crate::{store::held::HeldTransaction, transport::Outcome};

pub(super) struct Postgres(pub(super) PgPool);

/// One statement sees one snapshot, so "no earlier row of the key" and the row itself are of the same moment; a row that
/// another consumer claimed meanwhile is looked at again after the lock, and left out.
const CLAIM: &str = "
WITH due AS (
  SELECT m.seq FROM queue_message m
  WHERE m.queue = $1 AND m.visible_at <= now() AND (m.claimed_until IS NULL OR m.claimed_until <= now())
    AND (m.ordering_key IS NULL OR NOT EXISTS (
      SELECT 1 FROM queue_message e WHERE e.queue = m.queue AND e.ordering_key = m.ordering_key AND e.seq < m.seq))
  ORDER BY m.seq LIMIT $2 FOR UPDATE OF m SKIP LOCKED)
UPDATE queue_message m
SET claimed_by = $3, claimed_until = now() + $4 * interval '1 microsecond', deliveries = m.deliveries + 1
FROM due WHERE m.seq = due.seq
RETURNING m.seq, m.deliveries, m.headers::text, m.body";

const INSERT: &str = "
INSERT INTO queue_message (queue, id, ordering_key, headers, body)
SELECT r.queue, r.id, r.ordering_key, r.headers::jsonb, r.body
FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], $5::bytea[])
  WITH ORDINALITY AS r (queue, id, ordering_key, headers, body, n)
ORDER BY r.n";

const TARGETS: &str = "
SELECT topic, queue FROM queue_subscription WHERE topic = ANY($2)
UNION ALL SELECT '', queue FROM queue_declared WHERE queue = ANY($1)";

#[async_trait]
impl Statements for Postgres {
    async fn declare(&self, queue: &str, topics: &[String]) -> Result<(), sqlx::Error> {
        let declared = "INSERT INTO queue_declared (queue) VALUES ($1) ON CONFLICT DO NOTHING";
        sqlx::query(declared).bind(queue).execute(&self.0).await?;
        let subscribed = "INSERT INTO queue_subscription (topic, queue) SELECT t, $1 FROM unnest($2::text[]) t ON CONFLICT DO NOTHING";
        sqlx::query(subscribed).bind(queue).bind(topics).execute(&self.0).await.map(drop)
    }

    async fn targets(&self, queues: &[String], topics: &[String]) -> Result<Targets, sqlx::Error> {
        let pairs = sqlx::query_as(TARGETS).bind(queues).bind(topics).fetch_all(&self.0).await?;
        Ok(Targets::from_pairs(pairs))
    }

    async fn insert(&self, rows: &[NewRow]) -> Result<(), Outcome> {
        let not_written = |error| error::not_written(&error);
        let mut held =
            HeldTransaction::<sqlx::Postgres>::begin(&self.0, "BEGIN").await.map_err(not_written)?;
        let insert = sqlx::query(INSERT)
            .bind(rows.iter().map(|row| row.queue.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.ordering_key.as_deref()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.headers.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.body.as_ref()).collect::<Vec<_>>());
        insert.execute(held.connection()).await.map_err(not_written)?;
        held.commit().await.map_err(|error| error::not_committed(&error))
    }

    async fn claim(
        &self,
        queue: &str,
        rows_max: i64,
        claim: Uuid,
        lease: Duration,
    ) -> Result<Vec<Claimed>, sqlx::Error> {
        let rows = sqlx::query_as::<_, (i64, i32, String, Vec<u8>)>(CLAIM)
            .bind(queue)
            .bind(rows_max)
            .bind(claim)
            .bind(micros(lease))
            .fetch_all(&self.0)
            .await?;
        Ok(rows.into_iter().map(Claimed::from).collect())
    }

    async fn renew(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<(), sqlx::Error> {
        let renew = "UPDATE queue_message SET claimed_until = now() + $3 * interval '1 microsecond'
                     WHERE seq = ANY($2) AND claimed_by = $1";
        sqlx::query(renew).bind(claim).bind(seqs).bind(micros(lease)).execute(&self.0).await.map(drop)
    }

    async fn give_back(&self, claim: Uuid, seqs: &[i64]) -> Result<(), sqlx::Error> {
        let give_back =
            "UPDATE queue_message SET claimed_by = NULL, claimed_until = NULL, deliveries = deliveries - 1
                         WHERE seq = ANY($2) AND claimed_by = $1";
        sqlx::query(give_back).bind(claim).bind(seqs).execute(&self.0).await.map(drop)
    }

    async fn ack(&self, claims: &[Claim]) -> Result<Vec<i64>, sqlx::Error> {
        let delete = "DELETE FROM queue_message m USING unnest($1::bigint[], $2::uuid[]) AS a (seq, claim)
                      WHERE m.seq = a.seq AND m.claimed_by = a.claim RETURNING m.seq";
        sqlx::query_scalar(delete)
            .bind(claims.iter().map(|claim| claim.seq).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.id).collect::<Vec<_>>())
            .fetch_all(&self.0)
            .await
    }

    async fn nack(&self, claim: Uuid, seq: i64, after: Duration) -> Result<bool, sqlx::Error> {
        let nack = "UPDATE queue_message
                    SET claimed_by = NULL, claimed_until = NULL, visible_at = now() + $3 * interval '1 microsecond'
                    WHERE seq = $1 AND claimed_by = $2";
        let nack = sqlx::query(nack).bind(seq).bind(claim).bind(micros(after));
        Ok(nack.execute(&self.0).await?.rows_affected() == 1)
    }
}
