//! What a SQLite file says about a source: see [`crate::survey`].

use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlitePool};

use super::{SqliteSource, lease};
use crate::{
    source::{At, SourceError, holder},
    survey::{COUNTED_ROWS_MAX, PATIENCE, Parked, Survey, pending},
};

const OLDEST: &str = "SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - created_at \
    FROM outbox ORDER BY seq LIMIT 1";

const SPAN: &str = "SELECT coalesce((SELECT max(seq) FROM outbox) - (SELECT min(seq) FROM outbox) + 1, 0)";

const PARKED: &str = "SELECT state, count(*) FROM relay_parked WHERE source = ? GROUP BY state";

const BLOCKED: &str = "SELECT count(*) FROM (SELECT DISTINCT aggregatetype, aggregateid FROM relay_parked \
    WHERE source = ? AND state = 'poison' AND aggregateid IS NOT NULL)";

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
    let (pending, estimated) = pending(counted, span);
    let parked = sqlx::query_as(PARKED).bind(name).fetch_all(&mut *connection).await?;
    let blocked_keys = sqlx::query_scalar(BLOCKED).bind(name).fetch_one(&mut *connection).await?;
    Ok(Survey {
        pending,
        estimated,
        oldest: oldest.map(holder::millis),
        parked: Parked::of(parked),
        blocked_keys,
        oldest_transaction: None,
        holder: holder::nobody(),
    })
}
