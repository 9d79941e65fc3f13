//! Retention and replies on MariaDB and MySQL: bounded ranges of the primary key.
//!
//! There are no partitions here. They would have to be ranges of the message id, and such a table has no partition for
//! everything else: ids that are no UUIDv7 would lie in the partitions of some day, and be gone when that day is dropped,
//! however recently they were handled. Besides, dropping one locks the whole table against every unit of work.

use sqlx::{AssertSqlSafe, Executor, MySql, MySqlConnection, raw_sql};
use uuid::Uuid;

use crate::store::{
    backend::IdempotencyKey,
    idempotency::{self, IdempotencyRows, Span, Table},
};

/// For the next transaction only: without it the range would be locked against inserts until the DELETE is done.
const NO_GAP_LOCKS: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";

impl IdempotencyRows for MySql {
    const PLACEHOLDERS: [&'static str; 3] = ["?", "?", "?"];
    const OLDER_THAN: (&'static str, &'static str) = ("UTC_TIMESTAMP(6)-INTERVAL ", "*1000 MICROSECOND");

    async fn stored_reply(
        connection: &mut MySqlConnection,
        key: &IdempotencyKey,
    ) -> Result<Option<Vec<u8>>, sqlx::Error> {
        let read = "SELECT reply FROM idempotency WHERE message_id=? AND scope=?";
        let read = sqlx::query_scalar(read).bind(key.message_id).bind(&key.scope);
        Ok(read.fetch_optional(connection).await?.flatten())
    }

    async fn now_ms(connection: &mut MySqlConnection) -> Result<i64, sqlx::Error> {
        let now = "SELECT CAST(TIMESTAMPDIFF(MICROSECOND,'1970-01-01',UTC_TIMESTAMP(6)) DIV 1000 AS SIGNED)";
        sqlx::query_scalar(now).fetch_one(connection).await
    }

    async fn remove_step(
        connection: &mut MySqlConnection,
        table: Table,
        span: Span,
        keep_ms: i64,
        rows_max: u32,
    ) -> Result<(Option<Uuid>, u64), sqlx::Error> {
        // Names and numbers of ours.
        let (look, delete) =
            (idempotency::look::<MySql>(table, rows_max), idempotency::delete::<MySql>(table));
        let look = sqlx::query_scalar(AssertSqlSafe(look)).bind(span.after).bind(span.until);
        let end: Option<Uuid> = look.fetch_optional(&mut *connection).await?;
        let delete = sqlx::query(AssertSqlSafe(delete)).bind(span.after).bind(end.unwrap_or(span.until));
        connection.execute(raw_sql(NO_GAP_LOCKS)).await?;
        Ok((end, delete.bind(keep_ms).execute(connection).await?.rows_affected()))
    }
}
