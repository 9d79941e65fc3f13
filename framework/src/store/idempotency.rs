//! The records of handled messages beyond their insert: stored replies, high-water marks, retention.
//!
//! Retention walks along the primary key of a table in steps of bounded size (see `idempotency/retention.rs`), and on
//! PostgreSQL takes away whole partitions where the table has them. The bounded steps are [`look`] and [`delete`]: each reads
//! a range of the primary key, and never the table.

use std::{future::Future, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Database;
use uuid::Uuid;

use super::{
    backend::{Backend, IdempotencyKey},
    kept::Kept,
    statement::Statement,
    unit::{SqlUnit, bounded},
};
use crate::{
    error::{Error, Result},
    limits,
    unit_of_work::Unit,
};

/// The last number of a key: what stands for a record when the sender numbers its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// UUIDv5 of source, aggregate and key.
    pub(crate) key_id: Uuid,
    /// The number of this message.
    pub(crate) number: i64,
}

/// A table with retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// One row a handled message.
    Idempotency,
    /// One row a message that somebody polls for.
    Result,
    /// One row a key.
    HighWater,
    /// One row a message that failed.
    Attempts,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Idempotency, Self::Result, Self::HighWater, Self::Attempts];

    /// Its name, the first column of its primary key, and the column that says how old a row is.
    pub(crate) fn columns(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Idempotency => ("idempotency", "message_id", "handled_at"),
            Self::Result => ("result", "message_id", "handled_at"),
            Self::HighWater => ("high_water", "key_id", "handled_at"),
            Self::Attempts => ("attempts", "message_id", "updated_at"),
        }
    }

    /// Whether its key begins with a time when it is a UUIDv7.
    pub(crate) fn by_time(self) -> bool {
        self != Self::HighWater
    }
}

/// One step of the retention: the rows behind `after`, up to and with `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins, without this row.
    pub after: Uuid,
    /// Where it ends at the latest, with this row.
    pub until: Uuid,
}

/// What became of the partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions {
    /// Made ahead.
    pub made: Vec<String>,
    /// Taken away, with all of their rows.
    pub dropped: Vec<String>,
    /// Why one could not be made or taken away; it is tried again.
    pub problems: Vec<String>,
}

/// What retention and replies need from a database.
pub trait IdempotencyRows: Database {
    /// How the first, second and third bound value is written.
    const PLACEHOLDERS: [&'static str; 3];
    /// What a row's time is compared with, around the number of milliseconds that rows are kept.
    const OLDER_THAN: (&'static str, &'static str);

    /// The reply that was kept with a record.
    fn stored_reply(
        connection: &mut Self::Connection,
        key: &IdempotencyKey,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, sqlx::Error>> + Send;

    /// Now, by the database's clock, in milliseconds since 1970.
    fn now_ms(connection: &mut Self::Connection) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;

    /// The end of the first `rows_max` rows of a span by `look`, then `delete` up to there: where it ended, unless at the
    /// span's own end, and how many rows went.
    fn remove_step(
        connection: &mut Self::Connection,
        table: Table,
        span: Span,
        keep_ms: i64,
        rows_max: u32,
    ) -> impl Future<Output = Result<(Option<Uuid>, u64), sqlx::Error>> + Send;

    /// Makes partitions ahead and takes old ones away, where the table has partitions.
    fn partitions(
        _: &mut Self::Connection,
        _keep_ms: i64,
    ) -> impl Future<Output = Result<Partitions, sqlx::Error>> + Send {
        async { Ok(Partitions::default()) }
    }
}

/// The statement that finds the end of a step: the key `rows_max` rows behind the first bound value and not behind the second.
pub fn look<DB: IdempotencyRows>(table: Table, rows_max: u32) -> String {
    let (name, key, _) = table.columns();
    let [after, until, _] = DB::PLACEHOLDERS;
    let offset = rows_max.saturating_sub(1);
    format!(
        "SELECT {key} FROM {name} WHERE {key}>{after} AND {key}<={until} ORDER BY {key} LIMIT 1 OFFSET {offset}"
    )
}

/// The statement that removes a step: rows behind the first bound value, up to the second, older than the third (milliseconds).
pub fn delete<DB: IdempotencyRows>(table: Table) -> String {
    let (name, key, time) = table.columns();
    let [after, until, keep_ms] = DB::PLACEHOLDERS;
    let (before, behind) = DB::OLDER_THAN;
    format!("DELETE FROM {name} WHERE {key}>{after} AND {key}<={until} AND {time}<{before}{keep_ms}{behind}")
}

/// The records of one database.
#[async_trait]
pub(crate) trait RecordStore: Send + Sync {
    /// The reply that was kept with a record, read in a unit of work.
    async fn stored_reply(&self, unit: &mut dyn Unit, key: &IdempotencyKey) -> Result<Option<Bytes>>;
    /// Now, by the database's clock, in milliseconds since 1970.
    async fn now_ms(&self) -> Result<i64>;
    /// One step of the retention.
    async fn purge(&self, table: Table, span: Span, keep_ms: i64) -> Result<(Option<Uuid>, u64)>;
    /// See [`IdempotencyRows::partitions`].
    async fn partitions(&self, keep_ms: i64) -> Result<Partitions>;
}

/// The write that keeps a reply with its record.
pub(crate) fn write_reply(key: &IdempotencyKey, reply: Bytes) -> Statement {
    let update = Statement::new("UPDATE idempotency SET reply=").bytes(reply);
    update.sql(" WHERE message_id=").id(key.message_id).sql(" AND scope=").text(&key.scope)
}

pub(crate) struct SqlRecords<DB: Backend>(pub(crate) Arc<Kept<DB>>);

#[async_trait]
impl<DB: Backend> RecordStore for SqlRecords<DB> {
    async fn stored_reply(&self, unit: &mut dyn Unit, key: &IdempotencyKey) -> Result<Option<Bytes>> {
        let Some(unit) = SqlUnit::<DB>::of(unit) else { return Ok(None) };
        bounded(async {
            let stored = DB::stored_reply(unit.connection.live()?, key).await?;
            Ok(stored.map(Bytes::from))
        })
        .await
    }

    async fn now_ms(&self) -> Result<i64> {
        bounded(async {
            let mut connection = self.0.acquire().await?;
            Ok(DB::now_ms(&mut connection).await?)
        })
        .await
    }

    async fn purge(&self, table: Table, span: Span, keep_ms: i64) -> Result<(Option<Uuid>, u64)> {
        let writer = tokio::time::timeout(limits::CALL_TIMEOUT, DB::writer(self.0.pool())).await;
        let _writer = writer.map_err(|_| Error::new("somebody else keeps writing to the database"))?;
        bounded(async {
            let mut connection = self.0.acquire().await?;
            Ok(DB::remove_step(&mut connection, table, span, keep_ms, limits::PURGE_ROWS_MAX).await?)
        })
        .await
        .map_err(|error| error.context(format!("removing old rows of {}", table.columns().0)))
    }

    async fn partitions(&self, keep_ms: i64) -> Result<Partitions> {
        // The connection is not given back when this is dropped or fails in the middle: a transaction may be open on it.
        bounded(async {
            let mut connection = self.0.acquire().await?.detach();
            let done = DB::partitions(&mut connection, keep_ms).await;
            // Nothing is open on it that should be kept.
            drop(connection);
            Ok(done?)
        })
        .await
        .map_err(|error| error.context("looking after the partitions of idempotency"))
    }
}
