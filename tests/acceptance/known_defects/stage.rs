//! A PostgreSQL database with the schema, the SQL queue as the broker, and one kind of message.

use std::{sync::Arc, time::Duration};

use barid::{
    Bus, BusBuilder, Context, Destination, Message, Outgoing, Result, RetryPolicy, Sender, SqlQueue,
    SqlUnitOfWork, Transport,
    store::{AnyPool, schema},
    transport::Inbox,
};
use barid_relay::{Relay, lane::Order, relay::RelayBuilder, sink::Sink, source};
use barid_tests::{TestDatabase, eventually};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The queue of the bus under test.
pub(crate) const ORDERS: &str = "orders";

#[derive(Clone, Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
pub(crate) struct Place {
    pub(crate) id: i64,
}

#[derive(Clone, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
pub(crate) struct Placed {
    pub(crate) id: i64,
}

pub(crate) struct Stage {
    pub(crate) database: TestDatabase<Postgres>,
    pub(crate) queue: SqlQueue,
}

/// Something that runs until it is stopped.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn new<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(run(stop.clone())), stop }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn run(bus: Bus) -> Running {
    Running::new(async move |stop| bus.run_until(stop.cancelled_owned()).await.unwrap())
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::postgres().await;
        schema::apply(&AnyPool::Postgres(database.pool.clone())).await.unwrap();
        let effects = "CREATE TABLE effects (id bigint NOT NULL, parent bigint \
                       REFERENCES effects (id) DEFERRABLE INITIALLY DEFERRED, UNIQUE (id))";
        database.pool.execute(effects).await.unwrap();
        let queue = SqlQueue::new(AnyPool::Postgres(database.pool.clone()));
        let stage = Self { database, queue };
        stage.declare("dead-letters", &[]).await;
        stage
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    pub(crate) async fn declare(&self, queue: &str, topics: &[&str]) {
        let inbox = topics.iter().fold(Inbox::new(queue), |inbox, topic| inbox.topic(*topic));
        self.queue.declare(&inbox).await.unwrap();
    }

    /// A bus whose unit of work commits with the transaction, and which tries three times without much of a pause.
    pub(crate) fn bus(&self) -> BusBuilder {
        Bus::builder(ORDERS)
            .transport(self.queue.clone())
            .unit_of_work(SqlUnitOfWork::new(self.pool().clone()).commit_with_transaction(true))
            .retry(RetryPolicy {
                attempts_max: 3,
                pause: Duration::from_millis(1),
                pause_max: Duration::from_millis(5),
                ..RetryPolicy::default()
            })
    }

    /// A relay from the outbox into the SQL queue.
    pub(crate) fn relay_builder(&self) -> RelayBuilder {
        Relay::builder(source::open::source("orders", &AnyPool::Postgres(self.pool().clone())))
            .sink(Sink::new("queues", Arc::new(self.queue.clone())))
    }

    pub(crate) fn relay(&self) -> Running {
        let relay = self.relay_builder().route("*", "queues", Order::Strict).build().unwrap();
        Running::new(async move |stop| {
            relay.run_until(stop.cancelled_owned()).await.unwrap();
        })
    }

    /// Sends a command to the bus under test and returns its id.
    pub(crate) async fn place(&self, id: i64) -> Uuid {
        let message = Uuid::now_v7();
        self.place_again(message, id).await;
        message
    }

    /// The same with a given message id.
    pub(crate) async fn place_again(&self, message: Uuid, id: i64) {
        let sender = Sender::connect(&self.queue, "test").await.unwrap();
        let to = Destination::queue(ORDERS).unwrap();
        sender.send(Outgoing::new(Place { id }).id(message).to(to)).await.unwrap();
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(self.pool()).await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.pool().execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap();
    }

    /// Messages that wait in a queue.
    pub(crate) async fn waiting(&self, queue: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM queue_message WHERE queue = '{queue}'")).await
    }

    pub(crate) async fn becomes(&self, sql: &str, expected: i64) {
        let what = format!("{sql} is {expected}");
        eventually(PATIENCE, &what, async || self.number(sql).await == expected).await;
    }

    pub(crate) async fn end(self) {
        drop(self.queue);
        self.database.drop_now().await;
    }
}

/// The business row.
pub(crate) async fn effect(cx: &Context, id: i64) -> Result<()> {
    let mut db = cx.unit_of_work::<Postgres>().await?;
    sqlx::query("INSERT INTO effects (id) VALUES ($1)").bind(id).execute(&mut *db).await?;
    Ok(())
}

/// A business row that passes when it is written and fails the COMMIT.
pub(crate) async fn effect_that_cannot_commit(cx: &Context, id: i64) -> Result<()> {
    let mut db = cx.unit_of_work::<Postgres>().await?;
    sqlx::query("INSERT INTO effects (id, parent) VALUES ($1, -1)").bind(id).execute(&mut *db).await?;
    Ok(())
}
