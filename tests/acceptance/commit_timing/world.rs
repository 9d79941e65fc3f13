//! The databases of the table, and how each loses the answer to a COMMIT.

use std::{
    any::Any,
    sync::{Arc, Mutex},
};

use barid::{
    BusBuilder, Context, Result, SqlUnitOfWork,
    store::{AnyPool, schema},
};
use barid_tests::{Proxy, TestDatabase};
use sqlx::{AssertSqlSafe, Executor, MySql, Postgres, Sqlite, SqliteConnection};
use uuid::Uuid;

use crate::{
    design::{Fault, Kind, Row},
    journal::Journal,
};

/// One database.
pub(crate) struct World {
    kind: Kind,
    /// What the bus works on.
    bus: AnyPool,
    /// What the test looks at it with.
    direct: AnyPool,
    /// Between the bus and a server.
    proxy: Option<Proxy>,
    /// SQLite with a rollback journal.
    journal: Option<Arc<Journal>>,
    /// SQLite: a connection that still reads.
    reader: Mutex<Option<SqliteConnection>>,
    _home: Box<dyn Any + Send + Sync>,
}

/// All databases of the table.
pub(crate) struct Worlds {
    postgres: Arc<World>,
    mariadb: Arc<World>,
    sqlite: Arc<World>,
    /// SQLite without WAL, where a COMMIT can be BUSY or fail half-way.
    rollback_journal: Arc<World>,
}

impl Worlds {
    pub(crate) async fn new() -> Self {
        let (postgres, mariadb) = (TestDatabase::postgres().await, TestDatabase::mariadb().await);
        let (postgres_url, mariadb_url) = (postgres.url.clone(), mariadb.url.clone());
        Self {
            postgres: World::on_server(Kind::Postgres, &postgres_url, Box::new(postgres)).await,
            mariadb: World::on_server(Kind::MariaDb, &mariadb_url, Box::new(mariadb)).await,
            sqlite: World::wal().await,
            rollback_journal: World::rollback_journal().await,
        }
    }

    pub(crate) fn of(&self, row: &Row) -> Arc<World> {
        Arc::clone(match (row.kind, row.fault) {
            (Kind::Postgres, _) => &self.postgres,
            (Kind::MariaDb, _) => &self.mariadb,
            (Kind::Sqlite, Fault::AnswerLost { .. } | Fault::CommitBusy) => &self.rollback_journal,
            (Kind::Sqlite, _) => &self.sqlite,
        })
    }
}

impl World {
    async fn on_server(kind: Kind, url: &str, home: Box<dyn Any + Send + Sync>) -> Arc<Self> {
        let (proxy, through) = Proxy::in_front_of(url).await;
        let bus = AnyPool::connect(&through, 4).await.unwrap();
        let direct = AnyPool::connect(url, 4).await.unwrap();
        Self::ready(kind, bus, direct, Some(proxy), None, home).await
    }

    pub(crate) async fn wal() -> Arc<Self> {
        let database = TestDatabase::sqlite().await;
        let url = database.url.clone();
        let (bus, direct) =
            (AnyPool::connect(&url, 4).await.unwrap(), AnyPool::connect(&url, 4).await.unwrap());
        Self::ready(Kind::Sqlite, bus, direct, None, None, Box::new(database)).await
    }

    async fn rollback_journal() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::of(folder.path().join("test.db"));
        let (bus, direct) = (journal.pool().await, journal.pool().await);
        Self::ready(Kind::Sqlite, bus, direct, None, Some(journal), Box::new(folder)).await
    }

    async fn ready(
        kind: Kind,
        bus: AnyPool,
        direct: AnyPool,
        proxy: Option<Proxy>,
        journal: Option<Arc<Journal>>,
        home: Box<dyn Any + Send + Sync>,
    ) -> Arc<Self> {
        schema::apply(&direct).await.unwrap();
        let world = Self { kind, bus, direct, proxy, journal, reader: Mutex::default(), _home: home };
        if kind == Kind::MariaDb {
            world.execute("CREATE TABLE orders (id BIGINT PRIMARY KEY, parent BIGINT)".into()).await;
        } else {
            // Checked when the transaction commits. MariaDB has no such constraint.
            let orders = "CREATE TABLE orders (id BIGINT PRIMARY KEY, \
                          parent BIGINT REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)";
            world.execute(orders.into()).await;
        }
        Arc::new(world)
    }

    /// Gives the builder a unit of work on this database.
    pub(crate) fn unit_of_work(&self, bus: BusBuilder, commit_with_transaction: Option<bool>) -> BusBuilder {
        macro_rules! with {
            ($pool:expr) => {{
                let unit = SqlUnitOfWork::new($pool.clone());
                bus.unit_of_work(match commit_with_transaction {
                    Some(yes) => unit.commit_with_transaction(yes),
                    None => unit,
                })
            }};
        }
        match &self.bus {
            AnyPool::Postgres(pool) => with!(pool),
            AnyPool::MySql(pool) => with!(pool),
            AnyPool::Sqlite(pool) => with!(pool),
            _ => unreachable!("there are three databases"),
        }
    }

    /// The business row, in the handler's unit of work. With [`Fault::CommitRefused`] one that cannot be committed.
    pub(crate) async fn business(&self, cx: &Context, id: i64, fault: Fault) -> Result<()> {
        let parent = if fault == Fault::CommitRefused { "-1" } else { "NULL" };
        let insert = format!("INSERT INTO orders (id, parent) VALUES ({id}, {parent})");
        statement(cx, self.kind, insert).await?;
        if fault == Fault::CommitRefused && self.kind == Kind::MariaDb {
            // The closing text begins with the same statement, which then fails with the transaction still open.
            statement(cx, self.kind, "RELEASE SAVEPOINT barid_unit".into()).await?;
        }
        Ok(())
    }

    /// Breaks the COMMIT that comes next.
    pub(crate) async fn sabotage(&self, fault: Fault) {
        match (fault, &self.proxy, &self.journal) {
            (Fault::AnswerLost { committed: true }, Some(proxy), _) => proxy.cut_after_request(b"COMMIT"),
            (Fault::AnswerLost { committed: false }, Some(proxy), _) => proxy.cut_before_request(b"COMMIT"),
            (Fault::AnswerLost { committed }, _, Some(journal)) => journal.block(committed),
            (Fault::CommitBusy, _, Some(journal)) => {
                *self.reader.lock().unwrap() = Some(journal.reader().await);
            }
            _ => {}
        }
    }

    /// Ends the reading that makes COMMIT busy.
    pub(crate) async fn stop_reading(&self) {
        let reader = self.reader.lock().unwrap().take();
        if let Some(mut reader) = reader {
            reader.execute("COMMIT").await.unwrap();
        }
    }

    /// How many answers were lost so far.
    pub(crate) fn faults_fired(&self) -> usize {
        assert_eq!(self.proxy.as_ref().map_or(0, Proxy::armed), 0, "an armed fault did not strike");
        let journal = self.journal.as_ref().map_or(0, |journal| journal.fired());
        self.proxy.as_ref().map_or(0, |proxy| proxy.fired().len()) + journal
    }

    pub(crate) async fn business_rows(&self, id: i64) -> i64 {
        self.number(format!("SELECT count(*) FROM orders WHERE id = {id}")).await
    }

    pub(crate) async fn outbox_rows(&self, key: i64) -> i64 {
        self.number(format!("SELECT count(*) FROM outbox WHERE aggregateid = '{key}'")).await
    }

    pub(crate) async fn records(&self, message: Uuid) -> i64 {
        let id = self.literal(message);
        self.number(format!("SELECT count(*) FROM idempotency WHERE message_id = {id}")).await
    }

    pub(crate) async fn attempts(&self, message: Uuid) -> i64 {
        let id = self.literal(message);
        // The sum of integers is a decimal on two of them.
        let sum = if self.kind == Kind::MariaDb { "SIGNED" } else { "BIGINT" };
        self.number(format!(
            "SELECT CAST(coalesce(sum(attempts), 0) AS {sum}) FROM attempts WHERE message_id = {id}"
        ))
        .await
    }

    fn literal(&self, id: Uuid) -> String {
        match self.kind {
            Kind::Postgres => format!("'{id}'"),
            Kind::MariaDb | Kind::Sqlite => format!("X'{}'", id.simple()),
        }
    }

    async fn number(&self, sql: String) -> i64 {
        let sql = AssertSqlSafe(sql);
        match &self.direct {
            AnyPool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        }
    }

    async fn execute(&self, sql: String) {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql));
        match &self.direct {
            AnyPool::Postgres(pool) => drop(pool.execute(sql).await.unwrap()),
            AnyPool::MySql(pool) => drop(pool.execute(sql).await.unwrap()),
            AnyPool::Sqlite(pool) => drop(pool.execute(sql).await.unwrap()),
            _ => unreachable!("there are three databases"),
        }
    }
}

/// Runs one statement in the handler's unit of work.
async fn statement(cx: &Context, kind: Kind, sql: String) -> Result<()> {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql));
    match kind {
        Kind::Postgres => {
            let mut db = cx.unit_of_work::<Postgres>().await?;
            db.execute(sql).await?;
        }
        Kind::MariaDb => {
            let mut db = cx.unit_of_work::<MySql>().await?;
            db.execute(sql).await?;
        }
        Kind::Sqlite => {
            let mut db = cx.unit_of_work::<Sqlite>().await?;
            db.execute(sql).await?;
        }
    }
    Ok(())
}
