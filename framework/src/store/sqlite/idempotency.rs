//! Retention and replies on SQLite: bounded ranges of the primary key, which is the table.

use sqlx::{AssertSqlSafe, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::store::{
    backend::IdempotencyKey,
    idempotency::{self, IdempotencyRows, Span, Table},
};

impl IdempotencyRows for Sqlite {
    const PLACEHOLDERS: [&'static str; 3] = ["?1", "?2", "?3"];
    const OLDER_THAN: (&'static str, &'static str) =
        ("CAST((julianday('now')-2440587.5)*86400000 AS INTEGER)-", "");

    async fn stored_reply(
        connection: &mut SqliteConnection,
        key: &IdempotencyKey,
    ) -> Result<Option<Vec<u8>>, sqlx::Error> {
        let read = "SELECT reply FROM idempotency WHERE message_id=$1 AND scope=$2";
        let read = sqlx::query_scalar(read).bind(key.message_id).bind(&key.scope);
        Ok(read.fetch_optional(connection).await?.flatten())
    }

    async fn now_ms(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
        let now = "SELECT CAST((julianday('now')-2440587.5)*86400000 AS INTEGER)";
        sqlx::query_scalar(now).fetch_one(connection).await
    }

    async fn remove_step(
        connection: &mut SqliteConnection,
        table: Table,
        span: Span,
        keep_ms: i64,
        rows_max: u32,
    ) -> Result<(Option<Uuid>, u64), sqlx::Error> {
        // Names and numbers of ours.
        let (look, delete) =
            (idempotency::look::<Sqlite>(table, rows_max), idempotency::delete::<Sqlite>(table));
        let look = sqlx::query_scalar(AssertSqlSafe(look)).bind(span.after).bind(span.until);
        let end: Option<Uuid> = look.fetch_optional(&mut *connection).await?;
        let delete = sqlx::query(AssertSqlSafe(delete)).bind(span.after).bind(end.unwrap_or(span.until));
        Ok((end, delete.bind(keep_ms).execute(connection).await?.rows_affected()))
    }
}
