//! The table `idempotency_keys` on SQLite.

use sqlx::{Sqlite, SqliteConnection};

use crate::{
    distributed::ProcessKey,
    store::{
        backend::Recorded,
        keys::{self, KeyRows},
        saga::SagaRows,
        statement::Statement,
    },
};

impl KeyRows for Sqlite {
    const KEY: &'static str = "key";

    async fn insert_key(
        connection: &mut SqliteConnection,
        key: &ProcessKey,
    ) -> Result<Recorded, sqlx::Error> {
        // The only writer: whoever held the key has ended.
        let insert = Statement::new("INSERT INTO idempotency_keys(key,scope,request_hash,expires_at)VALUES(");
        let insert = keys::values::<Self>(insert, key).sql(")ON CONFLICT DO NOTHING");
        let fresh = Self::ask(connection, &insert).await?.0 == 1;
        Ok(if fresh { Recorded::Fresh } else { Recorded::Duplicate })
    }

    fn purge_keys(rows_max: u32) -> Statement {
        Statement::new(
            "DELETE FROM idempotency_keys WHERE(key,scope)IN(SELECT key,scope FROM idempotency_keys WHERE expires_at<",
        )
        .sql(Self::NOW)
        .sql(" ORDER BY expires_at LIMIT ")
        .int(rows_max.into())
        .sql(")")
    }
}
