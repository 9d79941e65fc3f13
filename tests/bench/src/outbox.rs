//! An outbox in PostgreSQL, and how it is filled as an application would have filled it.

use anyhow::{Context, ensure};
use barid::store::{AnyPool, schema};
use barid_tests::TestDatabase;
use sqlx::{PgConnection, PgPool, Postgres};

use crate::report::Report;

/// A database of its own with the schema applied. Dropped with the value.
pub(crate) async fn database() -> anyhow::Result<(TestDatabase<Postgres>, AnyPool)> {
    let database = TestDatabase::postgres().await;
    let pool = AnyPool::from(database.pool.clone());
    schema::apply(&pool).await.context("applying the schema")?;
    Ok((database, pool))
}

/// Says in the report which server it was.
pub(crate) async fn conditions(pool: &PgPool, report: &mut Report) -> anyhow::Result<()> {
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(pool).await?;
    report.condition("database", format!("PostgreSQL {version}"));
    Ok(())
}

/// Rows to be relayed.
pub(crate) struct Backlog<'a> {
    pub(crate) queue: &'a str,
    pub(crate) rows: usize,
    /// Ordering keys, in turn.
    pub(crate) keys: usize,
    /// One transaction for all would give every row the same xid.
    pub(crate) rows_per_transaction: usize,
    /// Bytes of JSON in each row.
    pub(crate) payload: usize,
}

/// What is left of the payload beside its text.
const JSON_AROUND: usize = 30;

impl Backlog<'_> {
    /// Empties the outbox and fills it in small transactions, with JSON and the usual headers.
    pub(crate) async fn fill(&self, pool: &PgPool) -> anyhow::Result<()> {
        sqlx::query("TRUNCATE outbox").execute(pool).await?;
        let load = format!(
            "DO $$ BEGIN FOR t IN 0..{last} LOOP
               INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers)
               SELECT gen_random_uuid(), 'queue:{queue}', 'orders', (n % {keys})::text, 'orders.placed',
                      convert_to(format('{{\"order\":%s,\"note\":\"%s\"}}', lpad(n::text, 9, '1'), repeat('n', {note})), 'UTF8'),
                      jsonb_build_object('barid-source', 'order-desk', 'barid-sent-at', '2026-11-21T02:15:00.123Z',
                        'content-type', 'application/json', 'barid-correlation-id', gen_random_uuid())
               FROM generate_series(t * {step}, least((t + 1) * {step}, {rows}) - 1) n;
               COMMIT;
             END LOOP; END $$",
            last = self.rows.div_ceil(self.rows_per_transaction).saturating_sub(1),
            step = self.rows_per_transaction,
            rows = self.rows,
            keys = self.keys.max(1),
            queue = self.queue,
            note = self.payload.saturating_sub(JSON_AROUND),
        );
        let mut connection = pool.acquire().await?;
        sqlx::raw_sql("SET synchronous_commit = off").execute(&mut *connection).await?;
        // Names and numbers only.
        sqlx::raw_sql(sqlx::AssertSqlSafe(load)).execute(&mut *connection).await?;
        sqlx::raw_sql("RESET synchronous_commit; ANALYZE outbox").execute(&mut *connection).await?;
        let filled: i64 =
            sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut *connection).await?;
        ensure!(usize::try_from(filled)? == self.rows, "{filled} rows in the backlog");
        Ok(())
    }
}

/// Whether the outbox has no row.
pub(crate) async fn is_empty(pool: &PgPool) -> anyhow::Result<bool> {
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM (SELECT FROM outbox LIMIT 1) t").fetch_one(pool).await?;
    Ok(rows == 0)
}

/// Inserts one event, in a transaction of its own. `$1` to `$4` of the text are the id, the destination, the key and the payload.
pub(crate) const INSERT: &str = "INSERT INTO outbox (id, destination, aggregatetype, aggregateid, type, payload, headers) \
    VALUES ($1, $2, 'orders', $3, 'orders.placed', $4, \
      '{\"barid-source\":\"order-desk\",\"barid-sent-at\":\"2026-11-21T02:15:00.123Z\",\"content-type\":\"application/json\"}')";

/// A connection that writes as an application does that can lose its last milliseconds: the disk is not what is measured.
pub(crate) async fn unflushed(url: &str) -> anyhow::Result<PgConnection> {
    let mut connection = <PgConnection as sqlx::Connection>::connect(url).await?;
    sqlx::query("SET synchronous_commit = off").execute(&mut connection).await?;
    Ok(connection)
}
