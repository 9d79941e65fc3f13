//! The consuming side: a bus on MariaDB that ships orders.

use barid::{
    Bus, BusError, Context, Error, Result, RetryPolicy, SqlIdempotency, SqlUnitOfWork, Transport,
    store::{AnyPool, schema},
};
use barid_tests::{TestDatabase, names};
use sqlx::{MySql, MySqlPool, Row, mysql::MySqlPoolOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::orders::OrderPlaced;

const PARALLELISM: usize = 16;

/// No key but a counter, which no rollback turns back: nothing but the framework keeps an order from being shipped twice.
const TABLES: &str = "CREATE TABLE shipments (id BIGINT AUTO_INCREMENT PRIMARY KEY, number BIGINT NOT NULL,
    shop BIGINT NOT NULL, n BIGINT NOT NULL, attempt BINARY(16) NOT NULL) ENGINE = InnoDB";

async fn ship(placed: OrderPlaced, cx: Context) -> Result<()> {
    let mut db = cx.unit_of_work::<MySql>().await?;
    sqlx::query("INSERT INTO shipments (number, shop, n, attempt) VALUES (?, ?, ?, ?)")
        .bind(placed.number)
        .bind(placed.shop)
        .bind(placed.n)
        .bind(placed.attempt)
        .execute(&mut *db)
        .await?;
    if placed.number % 10 == 4 && cx.attempt() == 1 {
        return Err(Error::new("one shipment in ten fails at first"));
    }
    Ok(())
}

pub(crate) struct Shipping {
    /// The name of the bus, and of its queue.
    pub(crate) bus: String,
    database: TestDatabase<MySql>,
    pool: MySqlPool,
}

impl Shipping {
    pub(crate) async fn open() -> Self {
        let database = TestDatabase::mariadb().await;
        let connections = u32::try_from(PARALLELISM).unwrap() + 4;
        let pool = MySqlPoolOptions::new().max_connections(connections).connect(&database.url).await.unwrap();
        schema::apply(&AnyPool::MySql(pool.clone())).await.unwrap();
        sqlx::raw_sql(TABLES).execute(&pool).await.unwrap();
        Self { bus: names::unique("shipping"), database, pool }
    }

    pub(crate) fn start(
        &self,
        broker: impl Transport,
        topic: &str,
        stop: CancellationToken,
    ) -> JoinHandle<Result<(), BusError>> {
        let bus = Bus::builder(self.bus.as_str())
            .transport(broker)
            .subscribe(topic)
            .unit_of_work(SqlUnitOfWork::new(self.pool.clone()).commit_with_transaction(true))
            .idempotency(SqlIdempotency::new())
            .parallelism(PARALLELISM)
            .dead_letters(names::unique("dead-letters"))
            // Every copy of a message may fail once.
            .retry(RetryPolicy {
                attempts_max: 50,
                pause: std::time::Duration::from_millis(100),
                pause_max: std::time::Duration::from_secs(10),
                ..RetryPolicy::default()
            })
            .handler(ship)
            .build()
            .unwrap();
        tokio::spawn(async move { bus.run_until(stop.cancelled_owned()).await })
    }

    pub(crate) async fn count(&self) -> usize {
        self.number("SELECT COUNT(*) FROM shipments").await
    }

    /// How often the handler inserted a shipment, committed or not. At least: the last ones may have rolled back.
    pub(crate) async fn tried(&self) -> usize {
        self.number("SELECT COALESCE(MAX(id), 0) FROM shipments").await
    }

    /// What was committed.
    pub(crate) async fn rows(&self) -> Vec<OrderPlaced> {
        let rows = sqlx::query("SELECT number, shop, n, attempt FROM shipments").fetch_all(&self.pool);
        let shipment = |row: sqlx::mysql::MySqlRow| OrderPlaced {
            number: row.get(0),
            shop: row.get(1),
            n: row.get(2),
            attempt: row.get(3),
        };
        rows.await.unwrap().into_iter().map(shipment).collect()
    }

    pub(crate) async fn drop_now(self) {
        self.pool.close().await;
        self.database.drop_now().await;
    }

    async fn number(&self, query: &'static str) -> usize {
        let number: i64 = sqlx::query_scalar(query).fetch_one(&self.pool).await.unwrap();
        usize::try_from(number).unwrap()
    }
}
