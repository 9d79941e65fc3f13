//! Retention and replies on PostgreSQL: bounded ranges of the primary key, and partitions where the table has them.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Postgres, raw_sql};
use uuid::Uuid;

use super::partitions;
use crate::store::{
    backend::IdempotencyKey,
    idempotency::{self, IdempotencyRows, Partitions, Span, Table},
};

/// The planner takes a range without known bounds for a large part of the table, and reads all of it.
const BY_INDEX: &str = "SET LOCAL enable_seqscan=off";

impl IdempotencyRows for Postgres {
    const PLACEHOLDERS: [&'static str; 3] = ["$1", "$2", "$3"];
    const OLDER_THAN: (&'static str, &'static str) = ("now()-", "*interval '1 millisecond'");

    async fn stored_reply(
        connection: &mut PgConnection,
        key: &IdempotencyKey,
    ) -> Result<Option<Vec<u8>>, sqlx::Error> {
        let read = "SELECT reply FROM idempotency WHERE message_id=$1 AND scope=$2";
        let read = sqlx::query_scalar(read).bind(key.message_id).bind(&key.scope);
        Ok(read.fetch_optional(connection).await?.flatten())
    }

    async fn now_ms(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
        let now = "SELECT (extract(epoch FROM now())*1000)::bigint";
        sqlx::query_scalar(now).fetch_one(connection).await
    }

    async fn remove_step(
        connection: &mut PgConnection,
        table: Table,
        span: Span,
        keep_ms: i64,
        rows_max: u32,
    ) -> Result<(Option<Uuid>, u64), sqlx::Error> {
        // Names and numbers of ours.
        let look = idempotency::look::<Postgres>(table, rows_max);
        let delete = idempotency::delete::<Postgres>(table);
        // Dropped in the middle it rolls back before the connection is used again.
        let mut transaction = Connection::begin(connection).await?;
        transaction.execute(raw_sql(BY_INDEX)).await?;
        let look = sqlx::query_scalar(AssertSqlSafe(look)).bind(span.after).bind(span.until);
        let end: Option<Uuid> = look.fetch_optional(&mut *transaction).await?;
        let delete = sqlx::query(AssertSqlSafe(delete)).bind(span.after).bind(end.unwrap_or(span.until));
        let removed = delete.bind(keep_ms).execute(&mut *transaction).await?.rows_affected();
        transaction.commit().await?;
        Ok((end, removed))
    }

    async fn partitions(connection: &mut PgConnection, keep_ms: i64) -> Result<Partitions, sqlx::Error> {
        partitions::look_after(connection, keep_ms).await
    }
}
