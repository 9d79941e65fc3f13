//! What PostgreSQL says about a source: see [`crate::survey`].

use barid::store::held::HeldTransaction;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Row};

use super::lease;
use crate::{
    source::{
        At, SourceError,
        mapping::{Mapping, Role},
        survey::Answers,
    },
    survey::{COUNTED_ROWS_MAX, PATIENCE, Survey},
};

/// The server gives up before the relay does, so that nothing goes on in vain.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = 5000";

const PARKED: &str = "SELECT state, count(*) FROM relay_parked WHERE source = $1 GROUP BY state";

const BLOCKED: &str = "SELECT count(*) FROM (SELECT DISTINCT aggregatetype, aggregateid FROM relay_parked \
    WHERE source = $1 AND state = 'poison' AND aggregateid IS NOT NULL) k";

/// Whoever has a snapshot or an id keeps dead rows of this database alive. A walsender does it for a replica.
const OLDEST_TRANSACTION: &str = "SELECT CASE WHEN pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN \
    (SELECT coalesce(max(ms), 0) FROM ( \
      SELECT (date_part('epoch', clock_timestamp() - xact_start) * 1000)::bigint AS ms FROM pg_stat_activity \
      WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid() \
        AND (datname = current_database() OR backend_type = 'walsender') \
      UNION ALL SELECT (date_part('epoch', clock_timestamp() - prepared) * 1000)::bigint FROM pg_prepared_xacts \
      WHERE database = current_database()) t) END";

/// Whether a table has a column: $1 and $2.
const HAS: &str = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(quote_ident($1)) AND attname = $2 \
    AND NOT attisdropped)";

/// Looks at the outbox that `pool` finds, or at the table of somebody else.
pub(in crate::source) async fn survey(
    name: &str,
    pool: &PgPool,
    table: Option<&Mapping>,
) -> Result<Survey, SourceError> {
    let at = At { name };
    let doing = "surveying the outbox";
    let begun = HeldTransaction::<Postgres>::begin(pool, BEGIN);
    let mut transaction = at.within(PATIENCE, doing, begun).await?;
    let holder = lease::look(name, transaction.connection()).await?;
    let survey = at.within(PATIENCE, doing, all(name, transaction.connection(), table)).await?;
    at.within(PATIENCE, doing, transaction.rollback()).await?;
    Ok(Survey { holder, ..survey })
}

async fn all(
    name: &str,
    connection: &mut PgConnection,
    table: Option<&Mapping>,
) -> Result<Survey, sqlx::Error> {
    let name_of = |role: Role| table.map_or(role.name(), |mapping| mapping.name_of(role));
    let (seq, created_at) = (name_of(Role::Seq), name_of(Role::CreatedAt));
    let ours = table.is_none();
    let table = table.map_or("outbox", |mapping| mapping.table.as_str());
    let dated =
        ours || sqlx::query_scalar(HAS).bind(table).bind(created_at).fetch_one(&mut *connection).await?;
    let since = if dated { format!("\"{created_at}\"::timestamptz") } else { "NULL::timestamptz".to_owned() };
    // Only identifiers and a constant go into the text. What is infinite has no age.
    let head = AssertSqlSafe(format!(
        "SELECT (SELECT count(*) FROM (SELECT FROM \"{table}\" LIMIT {COUNTED_ROWS_MAX} + 1) t), \
         (SELECT CASE WHEN isfinite({since}) THEN (date_part('epoch', clock_timestamp() - {since}) * 1000)::bigint END \
          FROM \"{table}\" ORDER BY \"{seq}\" LIMIT 1)"
    ));
    let head = sqlx::query(head).fetch_one(&mut *connection).await?;
    let (counted, oldest): (i64, Option<i64>) = (head.try_get(0)?, head.try_get(1)?);
    let mut span = 0;
    if counted > COUNTED_ROWS_MAX {
        let ends = AssertSqlSafe(format!(
            "SELECT coalesce(max(\"{seq}\") - min(\"{seq}\") + 1, 0) FROM \"{table}\""
        ));
        span = sqlx::query_scalar(ends).fetch_one(&mut *connection).await?;
    }
    let parked = sqlx::query_as(PARKED).bind(name).fetch_all(&mut *connection).await?;
    let blocked_keys = sqlx::query_scalar(BLOCKED).bind(name).fetch_one(&mut *connection).await?;
    let oldest_transaction = sqlx::query_scalar(OLDEST_TRANSACTION).fetch_one(&mut *connection).await?;
    Ok(Answers { counted, span, oldest, parked, blocked_keys, oldest_transaction }.survey())
}
