//! What a SQLite file says about a source: see [`crate::survey`].

use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlitePool};

use super::{SqliteSource, lease};
use crate::{
    source::{
        At, SourceError,
        survey::{Answers, BLOCKED, PARKED, SPAN},
    },
    survey::{COUNTED_ROWS_MAX, PATIENCE, Survey},
};

const OLDEST: &str = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - created_at \
    FROM outbox ORDER BY seq LIMIT 1";

/// Looks at the outbox of the file that `pool` is open on.
pub(in crate::source) async fn survey(name: &str, pool: &SqlitePool) -> Result<Survey, SourceError> {
    let source = SqliteSource { name: Arc::from(name), pool: pool.clone() };
    let holder = lease::look(&source).await?;
    let survey = At { name }.within(PATIENCE, "surveying the outbox", all(name, pool)).await?;
    Ok(Survey { holder, ..survey })
}

async fn all(name: &str, pool: &SqlitePool) -> Result<Survey, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    // Only a constant goes into the text.
    let count = format!("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT {})", COUNTED_ROWS_MAX + 1);
    let counted = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *connection).await?;
    let oldest: Option<i64> = sqlx::query_scalar(OLDEST).fetch_optional(&mut *connection).await?;
    let mut span = 0;
    if counted > COUNTED_ROWS_MAX {
        span = sqlx::query_scalar(SPAN).fetch_one(&mut *connection).await?;
    }
    let parked = sqlx::query_as(PARKED).bind(name).fetch_all(&mut *connection).await?;
    let blocked_keys = sqlx::query_scalar(BLOCKED).bind(name).fetch_one(&mut *connection).await?;
    Ok(Answers { counted, span, oldest, parked, blocked_keys, oldest_transaction: None }.survey())
}
