//! The table `idempotency_keys` on PostgreSQL.

use sqlx::{PgConnection, Postgres};

use crate::{
    distributed::ProcessKey,
    store::{
        backend::Recorded,
        keys::{self, KeyRows},
        saga::SagaRows,
        statement::Statement,
    },
};

impl KeyRows for Postgres {
    const KEY: &'static str = "key";

    async fn insert_key(connection: &mut PgConnection, key: &ProcessKey) -> Result<Recorded, sqlx::Error> {
        // Only when nobody else holds the key: whoever does is not waited for.
        let insert = Statement::new("INSERT INTO idempotency_keys(key,scope,request_hash,expires_at)SELECT ");
        let insert =
            keys::values::<Self>(insert, key).sql(" WHERE pg_try_advisory_xact_lock(hashtextextended(");
        let insert = insert.text(&key.key).sql(",hashtextextended(").text(&key.scope);
        let insert = insert.sql(",0)))ON CONFLICT DO NOTHING");
        if Self::ask(connection, &insert).await?.0 == 1 {
            return Ok(Recorded::Fresh);
        }
        let find = Statement::new("SELECT 1 FROM idempotency_keys WHERE key=").text(&key.key);
        let (_, rows) = Self::ask(connection, &find.sql(" AND scope=").text(&key.scope)).await?;
        Ok(if rows.is_empty() { Recorded::InProgress } else { Recorded::Duplicate })
    }

    fn purge_keys(rows_max: u32) -> Statement {
        Statement::new(
            "DELETE FROM idempotency_keys WHERE(key,scope)IN(SELECT key,scope FROM idempotency_keys WHERE expires_at<now() \
             ORDER BY expires_at LIMIT ",
        )
        .int(rows_max.into())
        .sql(")")
    }
}
