//! The shop: its tables, its journal, and how far it has come.

use anyhow::Context;
use barid::{
    Bus, Transport,
    store::{AnyPool, Dialect, schema},
};
use sqlx::AssertSqlSafe;

use crate::{Place, faults, handlers, journal::Journal, messages::Names};

/// Connections to the shop's database: two buses with eight handlers each, their queues, the relay, and a look now and then.
const CONNECTIONS: u32 = 30;

/// Business tables. No unique constraint keeps a second effect out: that is what is being shown.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS customers (name TEXT PRIMARY KEY, orders BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS orders (
  seq {serial}, command_id {uuid} NOT NULL, event_id {uuid} NOT NULL, attempt_id {uuid} NOT NULL,
  customer TEXT NOT NULL, number BIGINT NOT NULL);
CREATE INDEX IF NOT EXISTS orders_event ON orders (event_id);
CREATE INDEX IF NOT EXISTS orders_attempt ON orders (attempt_id);
CREATE TABLE IF NOT EXISTS shipments (
  seq {serial}, event_id {uuid} NOT NULL, customer TEXT NOT NULL, number BIGINT NOT NULL);
CREATE INDEX IF NOT EXISTS shipments_event ON shipments (event_id);
CREATE TABLE IF NOT EXISTS closings (customer TEXT NOT NULL);
";

const JOURNAL: &str = "
CREATE TABLE IF NOT EXISTS journal_attempts (seq {serial}, attempt_id {uuid} NOT NULL, command_id {uuid} NOT NULL);
CREATE TABLE IF NOT EXISTS journal_deliveries (
  seq {serial}, message_id {uuid} NOT NULL, message TEXT NOT NULL, customer TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS journal_deliveries_message ON journal_deliveries (message_id);
CREATE TABLE IF NOT EXISTS journal_crashes (seq {serial}, in_flight BIGINT NOT NULL);
";

/// How far the story has come, counted from tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Orders that were committed.
    pub orders: u64,
    /// Orders that were shipped.
    pub shipments: u64,
    /// Events that still are in the outbox.
    pub outbox: u64,
    /// Customers whose last event has arrived.
    pub closings: u64,
}

/// An open shop.
#[derive(Clone, Debug)]
pub struct Shop {
    /// The database of orders, shipments and the outbox.
    pub pool: AnyPool,
    /// What really happened.
    pub journal: Journal,
}

impl Shop {
    /// Opens the shop at `place`, with Barid's tables and its own.
    ///
    /// # Errors
    /// When a database cannot be opened or refuses a table.
    pub async fn open(place: &Place) -> anyhow::Result<Self> {
        let pool = AnyPool::connect(&place.url, CONNECTIONS).await?;
        schema::apply(&pool).await?;
        create(&pool, TABLES).await?;
        // One connection: on SQLite there is one writer anyway, and connections of a pool are handed out in order.
        let connections = if pool.dialect() == Dialect::Sqlite { 1 } else { 8 };
        let journal = AnyPool::connect(&place.journal_url, connections).await?;
        create(&journal, JOURNAL).await?;
        for command in 0..faults::CUSTOMERS {
            let sql = "INSERT INTO customers (name, orders) VALUES ($1, 0) ON CONFLICT DO NOTHING";
            let name = faults::customer(command);
            on_database!(&pool, pool => sqlx::query(sql).bind(&name).execute(pool).await.map(drop))?;
        }
        Ok(Self { pool, journal: Journal::new(journal) })
    }

    /// The bus that takes orders and the bus that ships, on whichever database this is.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub fn buses(&self, transport: impl Transport + Clone, names: &Names) -> anyhow::Result<(Bus, Bus)> {
        let (journal, own) = (&self.journal, transport.clone());
        match &self.pool {
            AnyPool::Sqlite(pool) => Ok((
                handlers::sqlite::orders(pool, journal, own, names)?,
                handlers::sqlite::shipping(pool, journal, transport, names)?,
            )),
            #[cfg(feature = "postgres")]
            AnyPool::Postgres(pool) => Ok((
                handlers::postgres::orders(pool, journal, own, names)?,
                handlers::postgres::shipping(pool, journal, transport, names)?,
            )),
            other => anyhow::bail!("the examples have no handlers for {}", other.dialect()),
        }
    }

    /// Writes the last event of every customer to the outbox.
    ///
    /// # Errors
    /// When the database fails; nothing was written then.
    pub async fn close_orders(&self, names: &Names) -> anyhow::Result<()> {
        match &self.pool {
            AnyPool::Sqlite(pool) => handlers::sqlite::close_orders(pool, names).await,
            #[cfg(feature = "postgres")]
            AnyPool::Postgres(pool) => handlers::postgres::close_orders(pool, names).await,
            other => anyhow::bail!("the examples have no handlers for {}", other.dialect()),
        }
    }

    /// How far the story has come.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn progress(&self) -> anyhow::Result<Progress> {
        let sql = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM shipments), \
            (SELECT count(*) FROM outbox), (SELECT count(DISTINCT customer) FROM closings)";
        let counts: (i64, i64, i64, i64) =
            on_database!(&self.pool, pool => sqlx::query_as(sql).fetch_one(pool).await)?;
        let (orders, shipments, outbox, closings) = counts;
        let count = i64::unsigned_abs;
        Ok(Progress {
            orders: count(orders),
            shipments: count(shipments),
            outbox: count(outbox),
            closings: count(closings),
        })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
        self.journal.pool().close().await;
    }
}

async fn create(pool: &AnyPool, tables: &str) -> anyhow::Result<()> {
    let (serial, uuid) = match pool.dialect() {
        Dialect::Sqlite => ("INTEGER PRIMARY KEY AUTOINCREMENT", "BLOB"),
        _ => ("BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "UUID"),
    };
    let sql = AssertSqlSafe(tables.replace("{serial}", serial).replace("{uuid}", uuid));
    on_database!(pool, pool => sqlx::raw_sql(sql).execute(pool).await.map(drop))
        .context("making the tables of the shop")
}
