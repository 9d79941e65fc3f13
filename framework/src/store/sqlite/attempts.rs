//! The rows of `attempts` on SQLite.

use sqlx::{Sqlite, SqliteConnection};

use crate::store::{attempts::AttemptRows, backend::IdempotencyKey};

impl AttemptRows for Sqlite {
    async fn count_attempt(
        connection: &mut SqliteConnection,
        key: &IdempotencyKey,
        by: i32,
        error: Option<&str>,
    ) -> Result<u32, sqlx::Error> {
        let attempts: i32 = sqlx::query_scalar(
            "INSERT INTO attempts(message_id,scope,attempts,errors) VALUES($1,$2,max($3,0),$4) \
             ON CONFLICT(message_id,scope) DO UPDATE SET attempts=max(attempts+$3,0),\
             errors=CASE WHEN $4 IS NOT NULL AND coalesce(length(errors),0)<$5 \
             THEN coalesce(errors||',','')||$4 ELSE errors END,\
             updated_at=CAST((julianday('now')-2440587.5)*86400000 AS INTEGER) RETURNING attempts",
        )
        .bind(key.message_id)
        .bind(&key.scope)
        .bind(by)
        .bind(error)
        .bind(Self::ERRORS_CHARS_MAX)
        .fetch_one(connection)
        .await?;
        Ok(attempts.unsigned_abs())
    }

    async fn attempt_errors(
        connection: &mut SqliteConnection,
        key: &IdempotencyKey,
    ) -> Result<Option<String>, sqlx::Error> {
        let errors = sqlx::query_scalar::<_, Option<String>>(
            "SELECT errors FROM attempts WHERE message_id=$1 AND scope=$2",
        );
        let row = errors.bind(key.message_id).bind(&key.scope).fetch_optional(connection).await?;
        Ok(row.flatten())
    }

    async fn forget_attempts(
        connection: &mut SqliteConnection,
        key: &IdempotencyKey,
    ) -> Result<(), sqlx::Error> {
        let delete = sqlx::query("DELETE FROM attempts WHERE message_id=$1 AND scope=$2");
        delete.bind(key.message_id).bind(&key.scope).execute(connection).await.map(drop)
    }
}
