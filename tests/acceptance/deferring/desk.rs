//! A bus that defers, with unit of work, outbox and idempotency, and its relay.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Bus, Context, Destination, Error, Headers, Message, Outgoing, Result, RetryPolicy, SqlIdempotency,
    SqlOutbox, SqlSchedule, SqlUnitOfWork, State, Transport, headers,
    store::{AnyPool, Backend},
    transport::{Delivery, Repeat, Settlement, TransportError},
};
use barid_relay::{Relay, lane::Order, sink::Sink, source};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, MySql, Pool, Postgres, Sqlite};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
pub(crate) struct Place {
    pub(crate) order: i64,
}

#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.remind")]
pub(crate) struct Remind {
    order: i64,
}

/// Cancels the reminder.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.pay")]
pub(crate) struct Pay {
    pub(crate) order: i64,
    pub(crate) reminder: Uuid,
}

/// Deferred by its own handler, once.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.wait")]
pub(crate) struct Wait {
    pub(crate) order: i64,
}

/// Defers so many bytes.
#[derive(Serialize, Deserialize, Message)]
#[message(name = "orders.pack")]
struct Pack {
    bytes: usize,
}

/// What the story does in each database.
pub(crate) trait Subject: Backend {
    const NOTE: &'static str;
    fn note(db: &mut barid::UnitConnection<Self>, entry: String) -> impl Future<Output = Result<()>> + Send;
    async fn prepare(pool: &Pool<Self>);
    async fn journal(pool: &Pool<Self>) -> Vec<String>;
    async fn scheduled(pool: &Pool<Self>) -> i64;
    async fn payload(pool: &Pool<Self>) -> Vec<u8>;
    async fn pass_an_hour(pool: &Pool<Self>);
}

macro_rules! subject {
    ($db:ty, $note:literal) => {
        impl Subject for $db {
            const NOTE: &'static str = $note;

            async fn note(db: &mut barid::UnitConnection<Self>, entry: String) -> Result<()> {
                sqlx::query(Self::NOTE).bind(entry).execute(db).await?;
                Ok(())
            }

            async fn prepare(pool: &Pool<Self>) {
                pool.execute("CREATE TABLE journal (entry VARCHAR(200) NOT NULL)").await.unwrap();
            }

            async fn journal(pool: &Pool<Self>) -> Vec<String> {
                sqlx::query_scalar("SELECT entry FROM journal").fetch_all(pool).await.unwrap()
            }

            async fn scheduled(pool: &Pool<Self>) -> i64 {
                sqlx::query_scalar("SELECT count(*) FROM schedule").fetch_one(pool).await.unwrap()
            }

            async fn payload(pool: &Pool<Self>) -> Vec<u8> {
                sqlx::query_scalar("SELECT payload FROM schedule").fetch_one(pool).await.unwrap()
            }

            async fn pass_an_hour(pool: &Pool<Self>) {
                pool.execute("UPDATE schedule SET due_at = created_at").await.unwrap();
            }
        }
    };
}

subject!(Postgres, "INSERT INTO journal (entry) VALUES ($1)");
subject!(MySql, "INSERT INTO journal (entry) VALUES (?)");
subject!(Sqlite, "INSERT INTO journal (entry) VALUES (?)");

/// Orders whose first attempt has failed.
pub(crate) type Failed = Arc<Mutex<HashSet<i64>>>;

async fn note<DB: Subject>(cx: &Context, what: &str, order: i64, message: impl ToString) -> Result<()> {
    let mut db = cx.unit_of_work::<DB>().await?;
    DB::note(&mut db, format!("{what} {order} {}", message.to_string())).await
}

pub(crate) async fn place<DB: Subject>(
    Place { order }: Place,
    cx: Context,
    failed: State<Failed>,
) -> Result<()> {
    let reminder = cx.defer(HOUR, Outgoing::new(Remind { order }).key(order))?;
    note::<DB>(&cx, "placed", order, cx.message_id()).await?;
    note::<DB>(&cx, "scheduled", order, reminder).await?;
    if order % 4 == 0 && failed.0.lock().unwrap().insert(order) {
        return Err(Error::new("not at the first attempt"));
    }
    Ok(())
}

async fn remind<DB: Subject>(Remind { order }: Remind, cx: Context) -> Result<()> {
    let cause = cx.headers().get(headers::CAUSATION_ID).unwrap_or("nothing").to_owned();
    note::<DB>(&cx, "reminded", order, cause).await
}

async fn pay<DB: Subject>(Pay { order, reminder }: Pay, cx: Context) -> Result<()> {
    cx.cancel(reminder)?;
    note::<DB>(&cx, "paid", order, cx.message_id()).await
}

async fn wait<DB: Subject>(Wait { order }: Wait, cx: Context) -> Result<()> {
    if let Some(original) = cx.headers().get(headers::ORIGINAL_ID) {
        assert_eq!(cx.headers().get(headers::KEY), Some("1"), "the key is kept");
        return note::<DB>(&cx, "waited", order, original).await;
    }
    cx.defer_this(Duration::from_millis(50))?;
    note::<DB>(&cx, "deferred", order, cx.message_id()).await
}

async fn pack(Pack { bytes }: Pack, cx: Context) -> Result<()> {
    let to = Destination::queue("elsewhere")?;
    cx.defer(HOUR, Outgoing::raw("orders.parcel", bytes::Bytes::from(body(bytes))).to(to))?;
    Ok(())
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// One desk: what its buses have in common.
pub(crate) struct Desk<DB: Subject, T> {
    pub(crate) pool: Pool<DB>,
    pub(crate) transport: T,
    pub(crate) name: String,
}

/// Something that runs until it is stopped.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn new<F: Future<Output = ()> + Send + 'static>(run: impl FnOnce(CancellationToken) -> F) -> Self {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(run(stop.clone())), stop }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

impl<DB: Subject, T: Transport + Clone> Desk<DB, T>
where
    AnyPool: From<Pool<DB>>,
{
    fn bus(&self) -> Bus {
        Bus::builder(self.name.clone())
            .transport(self.transport.clone())
            .unit_of_work(SqlUnitOfWork::new(self.pool.clone()).commit_with_transaction(true))
            .outbox(SqlOutbox::new())
            .idempotency(SqlIdempotency::new())
            .schedule(SqlSchedule::new())
            .retry(RetryPolicy { pause: Duration::from_millis(5), ..RetryPolicy::default() })
            .dead_letters(format!("{}-dead", self.name))
            .state(Failed::default())
            .handler(place::<DB>)
            .handler(remind::<DB>)
            .handler(pay::<DB>)
            .handler(wait::<DB>)
            .handler(pack)
            .build()
            .unwrap()
    }

    /// A new bus, which receives when this returns.
    pub(crate) async fn start(&self) -> Running {
        let bus = self.bus();
        bus.declare().await.unwrap();
        Running::new(async move |stop| bus.run_until(stop.cancelled_owned()).await.unwrap())
    }

    /// A relay from the outbox to the transport.
    pub(crate) fn relay(&self) -> Running {
        let relay = Relay::builder(source::open::source("desk", &AnyPool::from(self.pool.clone())))
            .sink(Sink::new("broker", Arc::new(self.transport.clone())))
            .route("*", "broker", Order::Strict)
            .build()
            .unwrap();
        Running::new(async move |stop| {
            relay.run_until(stop.cancelled_owned()).await.unwrap();
        })
    }

    /// Handles a message whose handler defers one of so many bytes, and returns them.
    pub(crate) async fn handle_large(&self, bytes: usize) -> Vec<u8> {
        let delivery = Delivery {
            headers: Headers::from_iter([
                (headers::ID, Uuid::now_v7().to_string()),
                (headers::TYPE, Pack::NAME.to_owned()),
            ]),
            body: serde_json::to_vec(&Pack { bytes }).unwrap().into(),
            source: self.name.clone(),
            repeat: Repeat::First,
            settlement: Box::new(Settled),
        };
        self.bus().handle(delivery).await.unwrap();
        body(bytes)
    }
}

struct Settled;

#[async_trait::async_trait]
impl Settlement for Settled {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        panic!("the message failed")
    }
}
