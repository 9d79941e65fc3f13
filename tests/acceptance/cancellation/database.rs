//! A database, a small pool on it, and somebody else who looks at what is open.

use std::{any::Any, time::Duration};

use barid::{
    BusBuilder, Context, Result, SqlUnitOfWork,
    store::{AnyPool, schema},
};
use barid_tests::{Proxy, TestDatabase};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, MySql, Postgres, Sqlite, SqlitePool,
    sqlite::SqliteConnectOptions,
};
use uuid::Uuid;

/// The databases.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Postgres,
    MariaDb,
    Sqlite,
}

pub(crate) struct Database {
    kind: Kind,
    /// The bus's.
    pool: AnyPool,
    connections: u32,
    /// For looking.
    other: AnyPool,
    /// Between the bus and a server: it loses answers, and makes every answer one that has to be waited for.
    proxy: Option<Proxy>,
    _home: Box<dyn Any + Send + Sync>,
}

impl Database {
    pub(crate) async fn new(kind: Kind, connections: u32) -> Self {
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
            Kind::Postgres | Kind::MariaDb => {
                let (proxy, through) = Proxy::in_front_of(&url).await;
                (Some(proxy), through)
            }
            Kind::Sqlite => (None, url.clone()),
        };
        let pool = AnyPool::connect(&through, connections).await.unwrap();
        let other = AnyPool::connect(&url, 2).await.unwrap();
        schema::apply(&other).await.unwrap();
        execute(&other, "CREATE TABLE orders (id BIGINT PRIMARY KEY)".into()).await;
        execute(&other, "CREATE TABLE borrowed (id BIGINT)".into()).await;
        Self { kind, pool, connections, other, proxy, _home: home }
    }

    pub(crate) fn unit_of_work(&self, bus: BusBuilder, commit_with_transaction: bool) -> BusBuilder {
        macro_rules! with {
            ($pool:expr) => {
                bus.unit_of_work(
                    SqlUnitOfWork::new($pool.clone()).commit_with_transaction(commit_with_transaction),
                )
            };
        }
        match &self.pool {
            AnyPool::Postgres(pool) => with!(pool),
            AnyPool::MySql(pool) => with!(pool),
            AnyPool::Sqlite(pool) => with!(pool),
            _ => unreachable!("there are three databases"),
        }
    }

    /// The server commits and nobody hears of it. An answer that is waiting to be lost still counts.
    pub(crate) fn lose_the_next_commit(&self) {
        if let Some(proxy) = self.proxy.as_ref().filter(|proxy| proxy.armed() == 0) {
            proxy.cut_after_request(b"COMMIT");
        }
    }

    pub(crate) fn lost_commits(&self) -> usize {
        self.proxy.as_ref().map_or(usize::MAX, |proxy| proxy.fired().len())
    }

    /// The next borrowers, as many as there are connections at the same time: each commits a row, in the way of any program.
    pub(crate) async fn borrow_and_commit(&self, id: i64) {
        let insert = format!("INSERT INTO borrowed (id) VALUES ({id})");
        macro_rules! each_connection_of {
            ($pool:expr) => {{
                let mut borrowed = Vec::new();
                for _ in 0..self.connections {
                    borrowed.push($pool.acquire().await.unwrap());
                }
                for connection in &mut borrowed {
                    connection.execute(AssertSqlSafe(insert.clone())).await.unwrap();
                }
            }};
        }
        match &self.pool {
            AnyPool::Postgres(pool) => each_connection_of!(pool),
            AnyPool::MySql(pool) => each_connection_of!(pool),
            AnyPool::Sqlite(pool) => each_connection_of!(pool),
            _ => unreachable!("there are three databases"),
        }
    }

    pub(crate) async fn borrowed(&self, id: i64) -> i64 {
        self.number(format!("SELECT count(*) FROM borrowed WHERE id = {id}")).await
    }

    /// Business, outbox and idempotency rows of a message.
    pub(crate) async fn rows(&self, id: i64, message: Uuid) -> [i64; 3] {
        let message = match self.kind {
            Kind::Postgres => format!("'{message}'"),
            Kind::MariaDb | Kind::Sqlite => format!("X'{}'", message.simple()),
        };
        [
            self.number(format!("SELECT count(*) FROM orders WHERE id = {id}")).await,
            self.number(format!("SELECT count(*) FROM outbox WHERE aggregateid = '{id}'")).await,
            self.number(format!("SELECT count(*) FROM idempotency WHERE message_id = {message}")).await,
        ]
    }

    /// Whether no transaction is open in this database but that of the question.
    pub(crate) async fn nothing_is_open(&self) -> bool {
        let open = match &self.other {
            AnyPool::Postgres(_) => {
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND pid <> pg_backend_pid() AND (xact_start IS NOT NULL OR state LIKE 'idle in transaction%')"
            }
            AnyPool::MySql(_) => {
                "SELECT count(*) FROM information_schema.innodb_trx t \
                 JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id \
                 WHERE p.db = database() AND p.id <> connection_id()"
            }
            AnyPool::Sqlite(pool) => return can_write(pool).await,
            _ => unreachable!("there are three databases"),
        };
        self.number(open.into()).await == 0
    }

    async fn number(&self, sql: String) -> i64 {
        let sql = AssertSqlSafe(sql);
        match &self.other {
            AnyPool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        }
    }
}

/// A second BEGIN IMMEDIATE, which does not wait for anybody.
async fn can_write(pool: &SqlitePool) -> bool {
    let options: SqliteConnectOptions = (*pool.connect_options()).clone();
    let mut second = options.busy_timeout(Duration::ZERO).connect().await.unwrap();
    let begun = second.execute("BEGIN IMMEDIATE").await.is_ok();
    if begun {
        second.execute("ROLLBACK").await.unwrap();
    }
    second.close().await.unwrap();
    begun
}

async fn execute(pool: &AnyPool, sql: String) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql));
    match pool {
        AnyPool::Postgres(pool) => drop(pool.execute(sql).await.unwrap()),
        AnyPool::MySql(pool) => drop(pool.execute(sql).await.unwrap()),
        AnyPool::Sqlite(pool) => drop(pool.execute(sql).await.unwrap()),
        _ => unreachable!("there are three databases"),
    }
}

/// The business row, in the handler's unit of work, with a statement before it.
pub(crate) async fn insert(cx: &Context, kind: Kind, id: i64) -> Result<()> {
    let insert = AssertSqlSafe(format!("INSERT INTO orders (id) VALUES ({id})"));
    match kind {
        Kind::Postgres => {
            let mut db = cx.unit_of_work::<Postgres>().await?;
            db.execute("SELECT count(*) FROM orders").await?;
            sqlx::query(insert).execute(&mut *db).await?;
        }
        Kind::MariaDb => {
            let mut db = cx.unit_of_work::<MySql>().await?;
            db.execute("SELECT count(*) FROM orders").await?;
            sqlx::query(insert).execute(&mut *db).await?;
        }
        Kind::Sqlite => {
            let mut db = cx.unit_of_work::<Sqlite>().await?;
            db.execute("SELECT count(*) FROM orders").await?;
            sqlx::query(insert).execute(&mut *db).await?;
        }
    }
    Ok(())
}
