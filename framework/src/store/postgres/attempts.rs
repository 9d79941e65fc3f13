//! The rows of `attempts` on PostgreSQL.

use sqlx::{PgConnection, Postgres};

use crate::store::{attempts::AttemptRows, backend::IdempotencyKey};

impl AttemptRows for Postgres {
    async fn count_attempt(
        connection: &mut PgConnection,
        key: &IdempotencyKey,
        by: i32,
        error: Option<&str>,
    ) -> Result<u32, sqlx::Error> {
        let attempts: i32 = sqlx::query_scalar(
            "INSERT INTO attempts(message_id,scope,attempts,errors,updated_at) \
             VALUES($1,$2,greatest($3,0),$4,clock_timestamp()) ON CONFLICT(message_id,scope) DO UPDATE SET \
             attempts=greatest(attempts.attempts+$3,0),errors=CASE WHEN coalesce(length(attempts.errors),0)<$5 \
             THEN nullif(concat_ws(',',attempts.errors,$4),'') ELSE attempts.errors END,\
             updated_at=clock_timestamp() RETURNING attempts",
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
        connection: &mut PgConnection,
        key: &IdempotencyKey,
    ) -> Result<Option<String>, sqlx::Error> {
        let errors = sqlx::query_scalar::<_, Option<String>>(
            "SELECT errors FROM attempts WHERE message_id=$1 AND scope=$2",
        );
        let row = errors.bind(key.message_id).bind(&key.scope).fetch_optional(connection).await?;
        Ok(row.flatten())
    }

    async fn forget_attempts(connection: &mut PgConnection, key: &IdempotencyKey) -> Result<(), sqlx::Error> {
        let delete = sqlx::query("DELETE FROM attempts WHERE message_id=$1 AND scope=$2");
        delete.bind(key.message_id).bind(&key.scope).execute(connection).await.map(drop)
    }
}
