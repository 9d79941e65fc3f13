//! The rows of `attempts` on MariaDB and MySQL.

use sqlx::{MySql, MySqlConnection};

use crate::store::{attempts::AttemptRows, backend::IdempotencyKey};

impl AttemptRows for MySql {
    async fn count_attempt(
        connection: &mut MySqlConnection,
        key: &IdempotencyKey,
        by: i32,
        error: Option<&str>,
    ) -> Result<u32, sqlx::Error> {
        // LAST_INSERT_ID(value) keeps the value for the session: the count of this very statement, whoever counts meanwhile.
        sqlx::query(
            "INSERT INTO attempts(message_id,scope,attempts,errors,updated_at) \
             VALUES(?,?,LAST_INSERT_ID(greatest(?,0)),?,UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE \
             attempts=LAST_INSERT_ID(greatest(attempts+?,0)),errors=IF(coalesce(length(errors),0)<?,\
             nullif(concat_ws(',',errors,?),''),errors),updated_at=UTC_TIMESTAMP(6)",
        )
        .bind(key.message_id)
        .bind(&key.scope)
        .bind(by)
        .bind(error)
        .bind(by)
        .bind(Self::ERRORS_CHARS_MAX)
        .bind(error)
        .execute(&mut *connection)
        .await?;
        let attempts: u64 = sqlx::query_scalar("SELECT LAST_INSERT_ID()").fetch_one(connection).await?;
        Ok(u32::try_from(attempts).unwrap_or(u32::MAX))
    }

    async fn attempt_errors(
        connection: &mut MySqlConnection,
        key: &IdempotencyKey,
    ) -> Result<Option<String>, sqlx::Error> {
        let errors = sqlx::query_scalar::<_, Option<String>>(
            "SELECT errors FROM attempts WHERE message_id=? AND scope=?",
        );
        let row = errors.bind(key.message_id).bind(&key.scope).fetch_optional(connection).await?;
        Ok(row.flatten())
    }

    async fn forget_attempts(
        connection: &mut MySqlConnection,
        key: &IdempotencyKey,
    ) -> Result<(), sqlx::Error> {
        let delete = sqlx::query("DELETE FROM attempts WHERE message_id=? AND scope=?");
        delete.bind(key.message_id).bind(&key.scope).execute(connection).await.map(drop)
    }
}
