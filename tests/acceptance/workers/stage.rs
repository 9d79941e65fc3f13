//! One transport with one queue of its own, a database for business rows, and a bus under test.

use std::{sync::Arc, time::Duration};

use barid::{
    Bus, BusBuilder, BusError, Context, Destination, Message, Outgoing, RabbitMq, Result, RetryPolicy,
    Sender, SqlQueue, SqlUnitOfWork,
    store::{AnyPool, schema},
    transport::{Inbox, Transport as _},
};
use barid_tests::{TestDatabase, names, servers};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, faulty::Faulty};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    SqlQueue,
    RabbitMq,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::SqlQueue, Kind::RabbitMq];

/// How long a message of the SQL queue stays away when its delivery was dropped.
const LEASE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "tests.work")]
pub(crate) struct Work {
    pub(crate) number: i64,
}

/// Calls itself [`Work`] and cannot be read as it.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "tests.work")]
struct Garbage(String);

pub(crate) struct Stage {
    pub(crate) kind: Kind,
    pub(crate) queue: String,
    pub(crate) transport: Faulty,
    pub(crate) database: TestDatabase<Sqlite>,
    sender: Sender,
}

impl Stage {
    pub(crate) async fn new(kind: Kind) -> Self {
        let database = TestDatabase::sqlite().await;
        let pool = AnyPool::connect(&format!("{}&synchronous=off", database.url), 4).await.unwrap();
        schema::apply(&pool).await.unwrap();
        sqlx::query("CREATE TABLE work (number INTEGER)").execute(&database.pool).await.unwrap();
        let transport = match kind {
            Kind::SqlQueue => Faulty::new(SqlQueue::new(pool).lease(LEASE)),
            Kind::RabbitMq => Faulty::new(RabbitMq::connect(&servers::amqp()).await.unwrap()),
        };
        let queue = names::unique("workers");
        transport.declare(&Inbox::new(&queue)).await.unwrap();
        let sender = Sender::connect(&transport, "test").await.unwrap();
        Self { kind, queue, transport, database, sender }
    }

    /// A bus on the queue, without handlers. Failed messages come again soon, and often.
    pub(crate) fn builder(&self) -> BusBuilder {
        Bus::builder(&self.queue)
            .transport(self.transport.clone())
            .dead_letters(format!("{}-dead", self.queue))
            .retry(RetryPolicy {
                attempts_max: 1_000,
                pause: Duration::from_millis(5),
                pause_max: Duration::from_millis(5),
                ..RetryPolicy::default()
            })
    }

    /// As [`Stage::builder`], and what handlers insert commits with the message.
    pub(crate) fn with_unit_of_work(&self) -> BusBuilder {
        let unit = SqlUnitOfWork::new(self.database.pool.clone()).commit_with_transaction(true);
        self.builder().unit_of_work(unit)
    }

    pub(crate) async fn send(&self, numbers: std::ops::Range<i64>) {
        let to = Destination::queue(&self.queue).unwrap();
        for number in numbers {
            self.sender.send(Outgoing::new(Work { number }).to(to.clone())).await.unwrap();
        }
    }

    /// Messages of the right name with a body that is none.
    pub(crate) async fn send_unreadable(&self, count: usize) {
        let to = Destination::queue(&self.queue).unwrap();
        for _ in 0..count {
            self.sender.send(Outgoing::new(Garbage("no number".into())).to(to.clone())).await.unwrap();
        }
    }

    /// The business rows, in order.
    pub(crate) async fn rows(&self) -> Vec<i64> {
        let rows = sqlx::query_scalar("SELECT number FROM work ORDER BY number");
        rows.fetch_all(&self.database.pool).await.unwrap()
    }

    /// What is left in the queue and the dead letters.
    pub(crate) async fn left(&self) -> [usize; 2] {
        [self.waiting(&self.queue).await, self.waiting(&format!("{}-dead", self.queue)).await]
    }

    async fn waiting(&self, queue: &str) -> usize {
        match self.kind {
            Kind::SqlQueue => {
                let count: i64 = sqlx::query_scalar("SELECT count(*) FROM queue_message WHERE queue = $1")
                    .bind(queue)
                    .fetch_one(&self.database.pool)
                    .await
                    .unwrap();
                usize::try_from(count).unwrap()
            }
            Kind::RabbitMq => {
                let channel = channel().await;
                let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
                let queue = channel.queue_declare(queue.into(), options, Default::default()).await.unwrap();
                usize::try_from(queue.message_count()).unwrap()
            }
        }
    }

    pub(crate) async fn drop_now(self) {
        if self.kind == Kind::RabbitMq {
            let channel = channel().await;
            for queue in [self.queue.clone(), format!("{}-dead", self.queue)] {
                channel.queue_delete(queue.as_str().into(), Default::default()).await.unwrap();
            }
        }
        drop((self.sender, self.transport));
        self.database.drop_now().await;
    }
}

async fn channel() -> lapin::Channel {
    let connection = lapin::Connection::connect(&servers::amqp(), Default::default()).await.unwrap();
    connection.create_channel().await.unwrap()
}

/// Inserts the business row of a message.
pub(crate) async fn insert(cx: &Context, number: i64) -> Result<()> {
    let mut db = cx.unit_of_work::<Sqlite>().await?;
    sqlx::query("INSERT INTO work (number) VALUES ($1)").bind(number).execute(&mut *db).await?;
    Ok(())
}

/// What handlers did, in order. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<i64>>>);

impl Journal {
    pub(crate) async fn note(&self, number: i64) {
        self.0.lock().await.push(number);
    }

    pub(crate) async fn all(&self) -> Vec<i64> {
        self.0.lock().await.clone()
    }

    pub(crate) async fn sorted(&self) -> Vec<i64> {
        let mut all = self.all().await;
        all.sort_unstable();
        all
    }

    pub(crate) async fn until(&self, count: usize) {
        let what = format!("{count} messages are handled");
        barid_tests::eventually(PATIENCE, &what, || async { self.0.lock().await.len() >= count }).await;
    }
}

/// A bus that runs.
pub(crate) struct Running {
    pub(crate) bus: Bus,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<Result<(), BusError>>,
}

impl Running {
    pub(crate) fn start(bus: Bus) -> Self {
        let stop = CancellationToken::new();
        let (running, stopped) = (bus.clone(), stop.clone().cancelled_owned());
        Self { bus, stop, task: tokio::spawn(async move { running.run_until(stopped).await }) }
    }

    pub(crate) async fn ended(self) -> Result<(), BusError> {
        within(self.task).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }
}

pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}
