//! The statements of the queue on PostgreSQL.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    error,
    queue::{Claim, Claimed, Head, KEYS_MAX, NewRow, Statements, Targets, micros},
};
use crate::{store::held::HeldTransaction, transport::Outcome};

pub(super) struct Postgres(pub(super) PgPool);

/// Goes from key to key by the index: a key with many rows costs no more than one with a single row.
const DUE: &str = "
WITH RECURSIVE head (ordering_key, seq, n) AS (
  (SELECT ordering_key, seq, 1::bigint FROM queue_message WHERE queue = $1 AND ordering_key > $3
   ORDER BY ordering_key, seq LIMIT 1)
  UNION ALL
  SELECT next.ordering_key, next.seq, head.n + 1 FROM head CROSS JOIN LATERAL (
    SELECT m.ordering_key, m.seq FROM queue_message m WHERE m.queue = $1 AND m.ordering_key > head.ordering_key
    ORDER BY m.ordering_key, m.seq LIMIT 1) next
  WHERE head.n < $4)
SELECT * FROM (
  SELECT seq, NULL::text AS ordering_key FROM queue_message
  WHERE queue = $1 AND ordering_key IS NULL AND visible_at <= now() AND (claimed_until IS NULL OR claimed_until <= now())
  ORDER BY seq LIMIT $2) free
UNION ALL
SELECT m.seq, head.ordering_key FROM head
LEFT JOIN queue_message m
  ON m.seq = head.seq AND m.visible_at <= now() AND (m.claimed_until IS NULL OR m.claimed_until <= now())";

/// A row that another consumer is claiming is locked and left out; one that it has claimed is looked at again and left out.
const TAKE: &str = "
UPDATE queue_message m
SET claimed_by = $1, claimed_until = now() + $3 * interval '1 microsecond', deliveries = m.deliveries + 1
FROM (SELECT seq FROM queue_message
      WHERE seq = ANY($2) AND visible_at <= now() AND (claimed_until IS NULL OR claimed_until <= now())
      ORDER BY seq FOR UPDATE SKIP LOCKED) due
WHERE m.seq = due.seq
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

    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), sqlx::Error> {
        let unsubscribe = "DELETE FROM queue_subscription WHERE topic = $1 AND queue = $2";
        sqlx::query(unsubscribe).bind(topic).bind(queue).execute(&self.0).await.map(drop)
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

    async fn due(&self, queue: &str, after_key: &str, rows_max: i64) -> Result<Vec<Head>, sqlx::Error> {
        let due = sqlx::query_as(DUE).bind(queue).bind(rows_max).bind(after_key).bind(KEYS_MAX);
        due.fetch_all(&self.0).await
    }

    async fn take(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<Vec<Claimed>, sqlx::Error> {
        let take =
            sqlx::query_as::<_, (i64, i32, String, Vec<u8>)>(TAKE).bind(claim).bind(seqs).bind(micros(lease));
        Ok(take.fetch_all(&self.0).await?.into_iter().map(Claimed::from).collect())
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
