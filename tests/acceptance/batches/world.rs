//! A database of the table: tables, what is in them, and how an answer to COMMIT gets lost.

use std::{any::Any, sync::Arc};

use barid::{
    BusBuilder, Context, Result, SqlUnitOfWork,
    store::{AnyPool, schema},
};
use barid_tests::{Proxy, TestDatabase};
use sqlx::{AssertSqlSafe, Executor, MySql, Postgres, Row, Sqlite};
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
    Sqlite,
}

pub(crate) struct World {
    pub(crate) kind: Kind,
    /// What the bus works on.
    pub(crate) bus: AnyPool,
    /// What the test looks at it with.
    direct: AnyPool,
    proxy: Option<Proxy>,
    _home: Box<dyn Any + Send + Sync>,
}

impl World {
    pub(crate) async fn new(kind: Kind) -> Arc<Self> {
        let (url, home): (_, Box<dyn Any + Send + Sync>) = match kind {
            Kind::Postgres => {
                let database = TestDatabase::postgres().await;
                (database.url.clone(), Box::new(database))
            }
            Kind::MariaDb => {
                let database = TestDatabase::mariadb().await;
                (database.url.clone(), Box::new(database))
            }
            Kind::Sqlite => {
                let database = TestDatabase::sqlite().await;
                (database.url.clone(), Box::new(database))
            }
        };
        let (proxy, through) = match kind {
            Kind::Sqlite => (None, url.clone()),
            Kind::Postgres | Kind::MariaDb => {
                let (proxy, through) = Proxy::in_front_of(&url).await;
                (Some(proxy), through)
            }
        };
        let bus = AnyPool::connect(&through, 4).await.unwrap();
        let direct = AnyPool::connect(&url, 4).await.unwrap();
        schema::apply(&direct).await.unwrap();
        let world = Self { kind, bus, direct, proxy, _home: home };
        // The constraint is checked by COMMIT. MariaDB has none of the kind.
        let orders = match kind {
            Kind::MariaDb => "CREATE TABLE orders (id BIGINT PRIMARY KEY, parent BIGINT)",
            Kind::Postgres | Kind::Sqlite => {
                "CREATE TABLE orders (id BIGINT PRIMARY KEY, \
                 parent BIGINT REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)"
            }
        };
        world.execute(orders).await;
        Arc::new(world)
    }

    pub(crate) async fn empty(&self) {
        for table in ["orders", "outbox", "idempotency", "attempts"] {
            self.execute(&format!("DELETE FROM {table}")).await;
        }
    }

    pub(crate) fn unit_of_work(&self, bus: BusBuilder) -> BusBuilder {
        macro_rules! with {
            ($pool:expr) => {
                bus.unit_of_work(SqlUnitOfWork::new($pool.clone()).commit_with_transaction(true))
            };
        }
        match &self.bus {
            AnyPool::Postgres(pool) => with!(pool),
            AnyPool::MySql(pool) => with!(pool),
            AnyPool::Sqlite(pool) => with!(pool),
            _ => unreachable!("there are three databases"),
        }
    }

    pub(crate) fn lose_the_next_commit(&self, committed: bool) {
        let proxy = self.proxy.as_ref().unwrap();
        if committed { proxy.cut_after_request(b"COMMIT") } else { proxy.cut_before_request(b"COMMIT") }
    }

    /// How many answers were lost since this was last asked.
    pub(crate) fn lost(&self) -> usize {
        static SEEN: std::sync::Mutex<Vec<(Kind, usize)>> = std::sync::Mutex::new(Vec::new());
        let all = self.proxy.as_ref().map_or(0, |proxy| proxy.fired().len());
        let mut seen = SEEN.lock().unwrap();
        let before = seen.iter().filter(|(kind, _)| *kind == self.kind).map(|(_, lost)| lost).sum::<usize>();
        seen.push((self.kind, all - before));
        all - before
    }

    /// The orders whose events are in the outbox, in its order.
    pub(crate) async fn outbox(&self) -> Vec<i64> {
        let keys = self.texts("SELECT headers FROM outbox ORDER BY seq").await;
        keys.iter()
            .map(|headers| {
                let headers: serde_json::Value = serde_json::from_str(headers).unwrap();
                headers["order"].as_str().unwrap().parse().unwrap()
            })
            .collect()
    }

    /// Business, outbox and idempotency rows of a message.
    pub(crate) async fn rows(&self, order: i64, message: Uuid) -> [i64; 3] {
        let outbox = self.outbox().await.into_iter().filter(|of| *of == order).count();
        [
            self.number(format!("SELECT count(*) FROM orders WHERE id = {order}")).await,
            i64::try_from(outbox).unwrap(),
            self.number(format!(
                "SELECT count(*) FROM idempotency WHERE message_id = {}",
                self.literal(message)
            ))
            .await,
        ]
    }

    pub(crate) async fn attempts(&self, message: Uuid) -> i64 {
        let sum = if self.kind == Kind::MariaDb { "SIGNED" } else { "BIGINT" };
        self.number(format!(
            "SELECT CAST(coalesce(sum(attempts), 0) AS {sum}) FROM attempts WHERE message_id = {}",
            self.literal(message)
        ))
        .await
    }

    /// An attempt at a message that is on record.
    pub(crate) async fn tried(&self, message: Uuid, attempts: i64) {
        let id = self.literal(message);
        self.execute(&format!(
            "INSERT INTO attempts (message_id, scope, attempts) VALUES ({id}, 'orders', {attempts})"
        ))
        .await;
    }

    fn literal(&self, id: Uuid) -> String {
        match self.kind {
            Kind::Postgres => format!("'{id}'"),
            Kind::MariaDb | Kind::Sqlite => format!("X'{}'", id.simple()),
        }
    }

    pub(crate) async fn number(&self, sql: String) -> i64 {
        let sql = AssertSqlSafe(sql);
        match &self.direct {
            AnyPool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        }
    }

    async fn texts(&self, sql: &'static str) -> Vec<String> {
        match &self.direct {
            AnyPool::Postgres(pool) => {
                let rows = pool.fetch_all(sqlx::raw_sql(sql)).await.unwrap();
                rows.iter().map(|row| row.get::<serde_json::Value, _>(0).to_string()).collect()
            }
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        }
    }

    async fn execute(&self, sql: &str) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        match &self.direct {
            AnyPool::Postgres(pool) => drop(pool.execute(sql).await.unwrap()),
            AnyPool::MySql(pool) => drop(pool.execute(sql).await.unwrap()),
            AnyPool::Sqlite(pool) => drop(pool.execute(sql).await.unwrap()),
            _ => unreachable!("there are three databases"),
        }
    }
}

/// Runs one statement in the unit of work. The guard is given back with `keep`.
pub(crate) async fn statement(
    cx: &Context,
    kind: Kind,
    sql: String,
    keep: bool,
) -> Result<Option<Box<dyn Any + Send>>> {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql));
    macro_rules! on {
        ($database:ty) => {{
            let mut db = cx.unit_of_work::<$database>().await?;
            db.execute(sql).await?;
            Ok(keep.then(|| Box::new(db) as Box<dyn Any + Send>))
        }};
    }
    match kind {
        Kind::Postgres => on!(Postgres),
        Kind::MariaDb => on!(MySql),
        Kind::Sqlite => on!(Sqlite),
    }
}
