//! What MariaDB or MySQL says about a source: see [`crate::survey`].

use barid::store::held::HeldTransaction;
use sqlx::{AssertSqlSafe, MySql, MySqlConnection, MySqlPool, mysql::MySqlDatabaseError};

use super::{lease, reader::ACCESS_DENIED};
use crate::{
    source::{
        At, SourceError,
        survey::{Answers, BLOCKED, PARKED, SPAN},
    },
    survey::{COUNTED_ROWS_MAX, PATIENCE, Survey},
};

/// One view of all tables.
const BEGIN: &str = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

const OLDEST: &str = "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, created_at, UTC_TIMESTAMP(6)) DIV 1000 AS SIGNED) \
    FROM outbox ORDER BY seq LIMIT 1";

/// InnoDB tells when a transaction began in the zone of the server, whatever that of the session is.
const OLDEST_TRANSACTION: &str = "SELECT CAST(coalesce(max(TIMESTAMPDIFF(SECOND, trx_started, \
      CONVERT_TZ(UTC_TIMESTAMP(), '+00:00', 'SYSTEM'))), 0) * 1000 AS SIGNED) FROM information_schema.innodb_trx";

/// Looks at the outbox of the database that `pool` is connected to.
pub(in crate::source) async fn survey(name: &str, pool: &MySqlPool) -> Result<Survey, SourceError> {
    let at = At { name };
    let doing = "surveying the outbox";
    let begun = HeldTransaction::<MySql>::begin(pool, BEGIN);
    let mut transaction = at.within(PATIENCE, doing, begun).await?;
    let holder = lease::look(name, transaction.connection()).await?;
    let survey = at.within(PATIENCE, doing, all(name, transaction.connection())).await?;
    at.within(PATIENCE, doing, transaction.rollback()).await?;
    Ok(Survey { holder, ..survey })
}

async fn all(name: &str, connection: &mut MySqlConnection) -> Result<Survey, sqlx::Error> {
    // Only a constant goes into the text.
    let count = format!("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT {}) t", COUNTED_ROWS_MAX + 1);
    let counted = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *connection).await?;
    let oldest: Option<i64> = sqlx::query_scalar(OLDEST).fetch_optional(&mut *connection).await?.flatten();
    let mut span = 0;
    if counted > COUNTED_ROWS_MAX {
        span = sqlx::query_scalar(SPAN).fetch_one(&mut *connection).await?;
    }
    let parked = sqlx::query_as(PARKED).bind(name).fetch_all(&mut *connection).await?;
    let blocked_keys = sqlx::query_scalar(BLOCKED).bind(name).fetch_one(&mut *connection).await?;
    let oldest_transaction = oldest_transaction(connection).await?;
    Ok(Answers { counted, span, oldest, parked, blocked_keys, oldest_transaction }.survey())
}

/// None without the privilege PROCESS.
async fn oldest_transaction(connection: &mut MySqlConnection) -> Result<Option<i64>, sqlx::Error> {
    match sqlx::query_scalar(OLDEST_TRANSACTION).fetch_one(connection).await {
        Ok(ms) => Ok(Some(ms)),
        Err(error) => {
            let answer = error.as_database_error();
            let answer = answer.and_then(|answer| answer.try_downcast_ref::<MySqlDatabaseError>());
            if answer.is_some_and(|answer| answer.number() == ACCESS_DENIED) { Ok(None) } else { Err(error) }
        }
    }
}
