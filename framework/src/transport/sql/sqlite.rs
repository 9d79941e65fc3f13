//! The statements of the queue on SQLite. Every one that writes waits for the file's in-process lock first.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{QueryBuilder, SqlitePool, sqlite::SqliteQueryResult};
use uuid::Uuid;

use super::{
    error,
    queue::{Claim, Claimed, Head, KEYS_MAX, NewRow, Statements, Targets, micros},
};
use crate::{
    store::{held::HeldTransaction, sqlite::lock::file_lock},
    transport::Outcome,
};

pub(super) struct Sqlite(pub(super) SqlitePool);

/// It only reads, so that an idle consumer never takes the write lock.
const DUE: &str = "
SELECT * FROM (
  SELECT seq, NULL AS ordering_key FROM queue_message
  WHERE queue = ?1 AND ordering_key IS NULL AND visible_at <= (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    AND (claimed_until IS NULL OR claimed_until <= (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)))
  ORDER BY seq LIMIT ?2)
UNION ALL
SELECT m.seq, h.ordering_key FROM (
  SELECT ordering_key, MIN(seq) AS seq FROM queue_message
  WHERE queue = ?1 AND ordering_key > ?3 GROUP BY ordering_key ORDER BY ordering_key LIMIT ?4) h
LEFT JOIN queue_message m
  ON m.seq = h.seq AND m.visible_at <= (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
    AND (m.claimed_until IS NULL OR m.claimed_until <= (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)))";

const TAKE: &str = "
UPDATE queue_message SET claimed_by = ?2, deliveries = deliveries + 1,
  claimed_until = (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)) + ?3
WHERE seq IN (SELECT value FROM json_each(?1))
  AND visible_at <= (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))
  AND (claimed_until IS NULL OR claimed_until <= (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)))
RETURNING seq, deliveries, headers, body";

/// Takes an array of pairs of row and claim, in hex.
const ACK: &str = "
DELETE FROM queue_message WHERE seq IN (SELECT value ->> 0 FROM json_each(?1))
  AND EXISTS (SELECT 1 FROM json_each(?1) WHERE value ->> 0 = seq AND value ->> 1 = hex(claimed_by))
RETURNING seq";

/// Rows of one INSERT: five parameters each, of the 32,766 that a statement may have.
const INSERT_ROWS_MAX: usize = 1_000;

#[async_trait]
impl Statements for Sqlite {
    async fn declare(&self, queue: &str, topics: &[String]) -> Result<(), sqlx::Error> {
        let declared = "INSERT INTO queue_declared (queue) VALUES (?) ON CONFLICT DO NOTHING";
        self.write(sqlx::query(declared).bind(queue)).await?;
        let subscribed =
            "INSERT INTO queue_subscription (topic, queue) SELECT value, ?2 FROM json_each(?1) WHERE true
                          ON CONFLICT DO NOTHING";
        self.write(sqlx::query(subscribed).bind(list(topics)).bind(queue)).await.map(drop)
    }

    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), sqlx::Error> {
        let unsubscribe = "DELETE FROM queue_subscription WHERE topic = ?1 AND queue = ?2";
        self.write(sqlx::query(unsubscribe).bind(topic.to_owned()).bind(queue.to_owned())).await.map(drop)
    }

    async fn targets(&self, queues: &[String], topics: &[String]) -> Result<Targets, sqlx::Error> {
        let targets = "SELECT topic, queue FROM queue_subscription WHERE topic IN (SELECT value FROM json_each(?2))
                       UNION ALL SELECT '', queue FROM queue_declared WHERE queue IN (SELECT value FROM json_each(?1))";
        let pairs = sqlx::query_as(targets).bind(list(queues)).bind(list(topics)).fetch_all(&self.0).await?;
        Ok(Targets::from_pairs(pairs))
    }

    async fn insert(&self, rows: &[NewRow]) -> Result<(), Outcome> {
        let not_written = |error| error::not_written(&error);
        let mut held =
            HeldTransaction::<sqlx::Sqlite>::begin_immediate(&self.0).await.map_err(not_written)?;
        for rows in rows.chunks(INSERT_ROWS_MAX) {
            let mut insert =
                QueryBuilder::new("INSERT INTO queue_message (queue, id, ordering_key, headers, body) ");
            insert.push_values(rows, |mut values, row| {
                values.push_bind(&row.queue).push_bind(row.id).push_bind(&row.ordering_key);
                values.push_bind(&row.headers).push_bind(row.body.as_ref());
            });
            insert.build().persistent(false).execute(held.connection()).await.map_err(not_written)?;
        }
        held.commit().await.map_err(|error| error::not_committed(&error))
    }

    async fn due(&self, queue: &str, after_key: &str, rows_max: i64) -> Result<Vec<Head>, sqlx::Error> {
        let due = sqlx::query_as(DUE).bind(queue).bind(rows_max).bind(after_key).bind(KEYS_MAX);
        due.fetch_all(&self.0).await
    }

    async fn take(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<Vec<Claimed>, sqlx::Error> {
        let take = sqlx::query_as::<_, (i64, i32, String, Vec<u8>)>(TAKE);
        let _writer = file_lock(&self.0).lock_owned().await;
        let rows = take.bind(list(seqs)).bind(claim).bind(millis(lease)).fetch_all(&self.0).await?;
        Ok(rows.into_iter().map(Claimed::from).collect())
    }

    async fn renew(&self, claim: Uuid, seqs: &[i64], lease: Duration) -> Result<(), sqlx::Error> {
        let renew = "UPDATE queue_message
                     SET claimed_until = (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)) + ?3
                     WHERE seq IN (SELECT value FROM json_each(?2)) AND claimed_by = ?1";
        self.write(sqlx::query(renew).bind(claim).bind(list(seqs)).bind(millis(lease))).await.map(drop)
    }

    async fn give_back(&self, claim: Uuid, seqs: &[i64]) -> Result<(), sqlx::Error> {
        let give_back = "UPDATE queue_message
                         SET claimed_by = NULL, claimed_until = NULL, deliveries = deliveries - 1
                         WHERE seq IN (SELECT value FROM json_each(?2)) AND claimed_by = ?1";
        self.write(sqlx::query(give_back).bind(claim).bind(list(seqs))).await.map(drop)
    }

    async fn ack(&self, claims: &[Claim]) -> Result<Vec<i64>, sqlx::Error> {
        let pairs: Vec<_> = claims.iter().map(|claim| (claim.seq, hex::encode_upper(claim.id))).collect();
        let _writer = file_lock(&self.0).lock_owned().await;
        sqlx::query_scalar(ACK).bind(list(&pairs)).fetch_all(&self.0).await
    }

    async fn nack(&self, claim: Uuid, seq: i64, after: Duration) -> Result<bool, sqlx::Error> {
        let nack = "UPDATE queue_message SET claimed_by = NULL, claimed_until = NULL,
                      visible_at = (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)) + ?3
                    WHERE seq = ?1 AND claimed_by = ?2";
        let nack = sqlx::query(nack).bind(seq).bind(claim).bind(millis(after));
        Ok(self.write(nack).await?.rows_affected() == 1)
    }
}

type Query = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

impl Sqlite {
    /// Runs one statement that writes. The lock first, then a connection.
    async fn write(&self, query: Query) -> Result<SqliteQueryResult, sqlx::Error> {
        let _writer = file_lock(&self.0).lock_owned().await;
        query.execute(&self.0).await
    }
}

/// A JSON array for `json_each`. Text and integers always have a JSON form.
fn list<T: serde::Serialize>(items: &[T]) -> String {
    serde_json::to_string(items).unwrap_or_else(|_| "[]".to_owned())
}

/// In milliseconds, rounded up: a wait is never shorter than asked for.
fn millis(duration: Duration) -> i64 {
    (micros(duration) + 999) / 1_000
}
