//! Where the sagas of a test are kept: in one of the three databases, with real SQL behind each bus.

use std::{
    any::Any,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Bus, BusBuilder, Headers, Memory, Message, SqlIdempotency, SqlOutbox, SqlUnitOfWork, headers,
    store::{AnyPool, schema},
    transport::{Delivery, Inbox, Repeat, Settlement, Transport, TransportError},
};
use barid_tests::TestDatabase;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// Messages handled at the same time need so many connections, and some more are for looking.
const CONNECTIONS: u32 = 24;

pub(crate) struct World {
    name: &'static str,
    pub(crate) pool: AnyPool,
    network: Memory,
    home: Mutex<Option<Box<dyn Any + Send>>>,
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All three databases.
pub(crate) async fn worlds() -> [Arc<World>; 3] {
    let sqlite = TestDatabase::sqlite().await;
    let url = format!("{}&synchronous=off", sqlite.url);
    let [postgres, mariadb] = servers().await;
    [postgres, mariadb, World::new("SQLite", &url, sqlite).await]
}

async fn servers() -> [Arc<World>; 2] {
    let (postgres, mariadb) = (TestDatabase::postgres().await, TestDatabase::mariadb().await);
    let (postgres_url, mariadb_url) = (postgres.url.clone(), mariadb.url.clone());
    [
        World::new("PostgreSQL", &postgres_url, postgres).await,
        World::new("MariaDB", &mariadb_url, mariadb).await,
    ]
}

/// The databases where two units of work can run at the same time.
pub(crate) async fn each_world<F: Future<Output = ()>>(test: impl Fn(Arc<World>) -> F) {
    for world in servers().await {
        test(world).await;
    }
}

impl World {
    async fn new(name: &'static str, url: &str, home: impl Any + Send) -> Arc<Self> {
        let pool = AnyPool::connect(url, CONNECTIONS).await.unwrap();
        schema::apply(&pool).await.unwrap();
        let network = Memory::new();
        network.declare(&Inbox::new("dead-letters")).await.unwrap();
        Arc::new(Self { name, pool, network, home: Mutex::new(Some(Box::new(home))) })
    }

    pub(crate) fn bus(&self, name: &str) -> BusBuilder {
        let bus = Bus::builder(name).transport(self.network.clone());
        match self.pool.clone() {
            AnyPool::Postgres(pool) => {
                bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
            }
            AnyPool::MySql(pool) => bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)),
            AnyPool::Sqlite(pool) => bus.unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true)),
            _ => unreachable!("there are three databases"),
        }
    }

    pub(crate) fn idempotent_bus(&self, name: &str) -> BusBuilder {
        self.bus(name).outbox(SqlOutbox::new()).idempotency(SqlIdempotency::new())
    }

    /// How many messages were given up.
    pub(crate) fn dead_letters(&self) -> usize {
        self.network.len("dead-letters")
    }

    /// The number that a query counts.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT CAST(({sql}) AS CHAR(20))"));
        let text: String = match &self.pool {
            AnyPool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        };
        text.trim().parse().unwrap()
    }

    /// How many sagas there are, and how many of them are completed.
    pub(crate) async fn sagas(&self) -> (i64, i64) {
        let completed = "SELECT count(*) FROM saga WHERE completed_at IS NOT NULL AND data IS NULL";
        (self.count("SELECT count(*) FROM saga").await, self.count(completed).await)
    }

    /// The highest revision.
    pub(crate) async fn revision(&self) -> i64 {
        self.count("SELECT max(revision) FROM saga").await
    }

    /// Attempts that were counted.
    pub(crate) async fn attempts(&self) -> i64 {
        self.count("SELECT count(*) FROM attempts").await
    }

    /// The state of the only saga named `orders`.
    pub(crate) async fn data(&self) -> Option<String> {
        self.data_of("orders").await
    }

    pub(crate) async fn data_of(&self, saga: &str) -> Option<String> {
        let sql = AssertSqlSafe(format!("SELECT data FROM saga WHERE saga = '{saga}'"));
        match &self.pool {
            AnyPool::Postgres(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::MySql(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_scalar(sql).fetch_one(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        }
    }

    /// Hands what is in the outbox to `bus`, and what it says to each; the rows stay when `keep` says so.
    pub(crate) async fn carry(&self, bus: &Bus, keep: bool) {
        type Row = (Uuid, String, String, Vec<u8>);
        const ROWS: &str =
            "SELECT id, type, CAST(headers AS CHAR(4000)) AS headers, payload FROM outbox ORDER BY seq";
        let rows: Vec<Row> = match &self.pool {
            AnyPool::Postgres(pool) => sqlx::query_as(ROWS).fetch_all(pool).await.unwrap(),
            AnyPool::MySql(pool) => sqlx::query_as(ROWS).fetch_all(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_as(ROWS).fetch_all(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        };
        for (id, name, headers, payload) in rows {
            let mut headers: Headers = serde_json::from_str(headers.trim()).unwrap();
            headers.set(headers::ID, id.to_string());
            headers.set(headers::TYPE, name);
            let settlement = Box::new(Settled::default());
            let (source, repeat) = ("desk".to_owned(), Repeat::First);
            bus.handle(Delivery { headers, body: payload.into(), source, repeat, settlement }).await.unwrap();
        }
        if !keep {
            self.run("DELETE FROM outbox").await;
        }
    }

    async fn run(&self, sql: &'static str) {
        match &self.pool {
            AnyPool::Postgres(pool) => sqlx::query(sql).execute(pool).await.map(drop).unwrap(),
            AnyPool::MySql(pool) => sqlx::query(sql).execute(pool).await.map(drop).unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query(sql).execute(pool).await.map(drop).unwrap(),
            _ => unreachable!("there are three databases"),
        }
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
        drop(self.home.lock().unwrap().take());
    }
}

/// What a bus said to the transport.
#[derive(Clone, Default)]
pub(crate) struct Settled(Arc<Mutex<Vec<&'static str>>>);

impl Settled {
    pub(crate) fn said(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }

    /// A delivery whose settlement is seen here.
    pub(crate) fn of<M: Message>(&self, message: &M) -> Delivery {
        Delivery { settlement: Box::new(self.clone()), ..delivery(message) }
    }
}

#[async_trait::async_trait]
impl Settlement for Settled {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("ack");
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        self.0.lock().unwrap().push("nack");
        Ok(())
    }
}

/// A first delivery of `message`.
pub(crate) fn delivery<M: Message>(message: &M) -> Delivery {
    with_id(message, Uuid::now_v7())
}

pub(crate) fn with_id<M: Message>(message: &M, id: Uuid) -> Delivery {
    Delivery {
        headers: Headers::from_iter([(headers::ID, id.to_string()), (headers::TYPE, M::NAME.to_owned())]),
        body: serde_json::to_vec(message).unwrap().into(),
        source: "desk".to_owned(),
        repeat: Repeat::First,
        settlement: Box::new(Settled::default()),
    }
}
