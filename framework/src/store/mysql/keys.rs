//! The table `idempotency_keys` on MariaDB and MySQL.

use sqlx::{MySql, MySqlConnection};

use super::unit::number;
use crate::{
    distributed::ProcessKey,
    store::{
        backend::Recorded,
        keys::{self, KeyRows},
        saga::SagaRows,
        statement::Statement,
    },
};

impl KeyRows for MySql {
    const KEY: &'static str = "`key`";

    async fn insert_key(connection: &mut MySqlConnection, key: &ProcessKey) -> Result<Recorded, sqlx::Error> {
        // MariaDB waits 2 s for whoever holds the key, MySQL, which reads a comment, as long as its settings say.
        let insert = Statement::new(
            "/*M! SET STATEMENT innodb_lock_wait_timeout=2 FOR */\
             INSERT INTO idempotency_keys(`key`,scope,request_hash,expires_at)VALUES(",
        );
        match Self::ask(connection, &keys::values::<Self>(insert, key).sql(")")).await {
            Ok(_) => Ok(Recorded::Fresh),
            // ER_DUP_ENTRY: a committed key. ER_LOCK_WAIT_TIMEOUT, ER_LOCK_DEADLOCK: a transaction that has not ended holds it.
            Err(error) => match number(&error) {
                Some(1062) => Ok(Recorded::Duplicate),
                Some(1205 | 1213) => Ok(Recorded::InProgress),
                _ => Err(error),
            },
        }
    }

    fn purge_keys(rows_max: u32) -> Statement {
        Statement::new(
            "DELETE FROM idempotency_keys WHERE expires_at<UTC_TIMESTAMP(6) ORDER BY expires_at LIMIT ",
        )
        .int(rows_max.into())
    }
}
