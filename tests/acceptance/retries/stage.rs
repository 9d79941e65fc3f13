//! A PostgreSQL database with the schema, a queue and its dead letters on some transport, and messages that make trouble.

use std::time::Duration;

use barid::{
    Bus, BusBuilder, DeadLetter, Destination, Headers, Message, Outgoing, RetryPolicy, Sender, SqlQueue,
    SqlUnitOfWork, Transport, headers,
    store::{AnyPool, schema},
    transport::{Consumer, Inbox},
};
use barid_tests::{TestDatabase, eventually, names::unique};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Clone, Serialize, Deserialize, Message)]
#[message(name = "trouble.make")]
pub(crate) struct Make {
    pub(crate) how: String,
}

pub(crate) fn make(how: &str) -> Make {
    Make { how: how.to_owned() }
}

pub(crate) struct Stage<T: Transport> {
    pub(crate) database: TestDatabase<Postgres>,
    pub(crate) transport: T,
    pub(crate) queue: String,
    sender: Sender,
}

/// A bus that runs until it is stopped.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(bus: Bus) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        Self { stop, task: tokio::spawn(async move { bus.run_until(stopped).await.unwrap() }) }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) async fn database() -> TestDatabase<Postgres> {
    let database = TestDatabase::postgres().await;
    schema::apply(&AnyPool::Postgres(database.pool.clone())).await.unwrap();
    database.pool.execute("CREATE TABLE effects (what text NOT NULL)").await.unwrap();
    database
}

impl Stage<SqlQueue> {
    /// The queue in the same database.
    pub(crate) async fn sql() -> Self {
        let database = database().await;
        let queue = SqlQueue::new(AnyPool::Postgres(database.pool.clone())).lease(Duration::from_secs(1));
        Self::new(database, queue).await
    }

    /// How many messages wait in a queue, whether they are due or not.
    pub(crate) async fn waiting(&self, queue: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM queue_message WHERE queue = '{queue}'")).await
    }
}

impl<T: Transport + Clone> Stage<T> {
    pub(crate) async fn new(database: TestDatabase<Postgres>, transport: T) -> Self {
        let queue = unique("retries");
        for name in [queue.clone(), format!("{queue}-dead")] {
            transport.declare(&Inbox::new(name)).await.unwrap();
        }
        let sender = Sender::connect(&transport, "test").await.unwrap();
        Self { database, transport, queue, sender }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    pub(crate) fn dead(&self) -> String {
        format!("{}-dead", self.queue)
    }

    /// A bus that tries three times without much of a pause.
    pub(crate) fn bus(&self) -> BusBuilder {
        Bus::builder(&self.queue)
            .transport(self.transport.clone())
            .dead_letters(self.dead())
            .unit_of_work(SqlUnitOfWork::new(self.pool().clone()).commit_with_transaction(true))
            .retry(RetryPolicy {
                attempts_max: 3,
                immediate_max: 1,
                pause: Duration::from_millis(20),
                pause_max: Duration::from_millis(40),
            })
    }

    pub(crate) async fn send(&self, message: impl Message) -> Uuid {
        let id = Uuid::now_v7();
        let to = Destination::queue(self.queue.clone()).unwrap();
        self.sender.send(Outgoing::new(message).id(id).to(to)).await.unwrap();
        id
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.sender
    }

    /// The next dead letter, acknowledged.
    pub(crate) async fn letter(&self) -> (DeadLetter, Headers, bytes::Bytes) {
        let mut consumer = self.transport.consumer(&Inbox::new(self.dead())).await.unwrap();
        let received = next(consumer.as_mut()).await;
        consumer.close().await.unwrap();
        received
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(self.pool()).await.unwrap()
    }

    pub(crate) async fn becomes(&self, sql: &str, expected: i64) {
        eventually(PATIENCE, &format!("{sql} is {expected}"), async || self.number(sql).await == expected)
            .await;
    }
}

async fn next(consumer: &mut dyn Consumer) -> (DeadLetter, Headers, bytes::Bytes) {
    let received = async {
        loop {
            // A consumer that was disconnected connects again.
            if let Ok(delivery) = consumer.receive().await {
                return delivery;
            }
        }
    };
    let delivery = tokio::time::timeout(PATIENCE, received).await.expect("a dead letter in time");
    delivery.settlement.ack().await.unwrap();
    let letter = DeadLetter::read(&delivery.headers).unwrap();
    assert!(delivery.headers.get(headers::ID).is_some());
    (letter, delivery.headers, delivery.body)
}
