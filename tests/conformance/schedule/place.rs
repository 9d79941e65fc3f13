//! Where the schedule is tested: buses on one database or in memory, and what has left so far.

use std::time::Duration;

use barid::{
    Bus, BusBuilder, Context, Destination, Headers, Memory, MemorySchedule, Message, Outgoing, Result,
    Schedule, SqlOutbox, SqlSchedule, SqlUnitOfWork, Transport, headers,
    store::{AnyPool, schema},
    transport::{Delivery, Inbox, Repeat, Settlement, TransportError},
};
use barid_tests::eventually;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::databases::{Fresh, KINDS, Kind, run};

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Where everything goes that is scheduled here; nobody receives from it.
const OUT: &str = "out";

/// What is scheduled: its text is what the tests look at.
#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "notes.note")]
pub(crate) struct Note {
    text: String,
}

pub(crate) fn note(text: impl Into<String>) -> Outgoing {
    Outgoing::new(Note { text: text.into() }).to(Destination::queue(OUT).unwrap())
}

/// What a handler does with the schedule, and whether it fails afterwards.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Message)]
#[message(name = "notes.act")]
pub(crate) struct Act {
    /// Milliseconds, id and text.
    pub(crate) defer: Vec<(u64, Uuid, String)>,
    pub(crate) cancel: Vec<Uuid>,
    /// After the cancelling.
    pub(crate) defer_again: Vec<(u64, Uuid, String)>,
    pub(crate) fails: bool,
}

async fn act(act: Act, cx: Context) -> Result<()> {
    let defer = |(millis, id, text): (u64, Uuid, String)| {
        cx.defer(Duration::from_millis(millis), note(text).id(id)).map(|given| assert_eq!(given, id))
    };
    act.defer.into_iter().try_for_each(defer)?;
    act.cancel.into_iter().try_for_each(|id| cx.cancel(id))?;
    act.defer_again.into_iter().try_for_each(defer)?;
    if act.fails { Err(barid::Error::new("as it was told")) } else { Ok(()) }
}

/// A database, or the memory of this process.
pub(crate) struct Place {
    pub(crate) what: String,
    database: Option<(Fresh, AnyPool)>,
    /// The broker of the buses, and where a schedule in memory sends.
    network: Memory,
}

impl Place {
    /// One of each kind.
    pub(crate) async fn all() -> Vec<Self> {
        let mut all = Self::databases().await;
        all.push(Self { what: "memory".to_owned(), database: None, network: network().await });
        all
    }

    /// One on each database.
    pub(crate) async fn databases() -> Vec<Self> {
        let mut all = Vec::new();
        for kind in KINDS {
            all.push(Self::on(kind).await);
        }
        all
    }

    pub(crate) async fn on(kind: Kind) -> Self {
        let database = Fresh::new(kind).await;
        let pool = database.pool().await;
        schema::apply(&pool).await.unwrap();
        Self { what: format!("{kind:?}"), database: Some((database, pool)), network: network().await }
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.database.is_some()
    }

    pub(crate) fn pool(&self) -> &AnyPool {
        &self.database.as_ref().unwrap().1
    }

    /// Another pool on the same database, as another process would have it.
    pub(crate) async fn another_pool(&self) -> AnyPool {
        self.database.as_ref().unwrap().0.pool().await
    }

    /// The address of the database.
    pub(crate) fn url(&self) -> &str {
        &self.database.as_ref().unwrap().0.url
    }

    pub(crate) fn bus(&self) -> Bus {
        self.bus_on(self.database.as_ref().map(|(_, pool)| pool))
    }

    pub(crate) fn bus_on(&self, pool: Option<&AnyPool>) -> Bus {
        let bus = Bus::builder("desk").transport(self.network.clone()).handler(act);
        let sql = |bus: BusBuilder| bus.outbox(SqlOutbox::new()).schedule(SqlSchedule::new());
        let bus = match pool {
            None => bus.schedule(MemorySchedule::new()),
            Some(AnyPool::Postgres(pool)) => {
                sql(bus.unit_of_work(committing(SqlUnitOfWork::new(pool.clone()))))
            }
            Some(AnyPool::MySql(pool)) => sql(bus.unit_of_work(committing(SqlUnitOfWork::new(pool.clone())))),
            Some(AnyPool::Sqlite(pool)) => {
                sql(bus.unit_of_work(committing(SqlUnitOfWork::new(pool.clone()))))
            }
            Some(_) => unreachable!("there are three databases"),
        };
        bus.build().unwrap()
    }

    /// The texts of what has left, in the order in which it left.
    pub(crate) async fn left(&self) -> Vec<String> {
        let bodies: Vec<Vec<u8>> = match &self.database {
            None => self.network.peek(OUT).into_iter().map(|(_, body)| body.to_vec()).collect(),
            Some((_, pool)) => {
                let left = "SELECT payload FROM outbox ORDER BY seq";
                match pool {
                    AnyPool::Postgres(pool) => sqlx::query_scalar(left).fetch_all(pool).await.unwrap(),
                    AnyPool::MySql(pool) => sqlx::query_scalar(left).fetch_all(pool).await.unwrap(),
                    AnyPool::Sqlite(pool) => sqlx::query_scalar(left).fetch_all(pool).await.unwrap(),
                    _ => unreachable!("there are three databases"),
                }
            }
        };
        bodies.iter().map(|body| serde_json::from_slice::<Note>(body).unwrap().text).collect()
    }

    /// Waits until so many have left, and returns them all.
    pub(crate) async fn left_becomes(&self, count: usize) -> Vec<String> {
        let what = format!("{}: {count} messages have left", self.what);
        eventually(PATIENCE, &what, async || self.left().await.len() >= count).await;
        self.left().await
    }

    /// Schedules `texts` in one transaction of the caller; `commit` says how it ends.
    pub(crate) async fn schedule_in_transaction(
        &self,
        texts: impl IntoIterator<Item = (DateTime<Utc>, Outgoing)>,
        commit: bool,
    ) {
        let texts: Vec<_> = texts.into_iter().collect();
        macro_rules! on {
            ($pool:expr, $db:ty) => {{
                let mut connection = $pool.acquire().await.unwrap();
                let mut tx = connection.begin().await.unwrap();
                let schedule = Schedule::new("test");
                for (at, message) in texts {
                    schedule.schedule::<$db>(&mut tx, at, message).await.unwrap();
                }
                if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
            }};
        }
        match self.pool() {
            AnyPool::Postgres(pool) => on!(pool, sqlx::Postgres),
            AnyPool::MySql(pool) => on!(pool, sqlx::MySql),
            AnyPool::Sqlite(pool) => on!(pool, sqlx::Sqlite),
            _ => unreachable!("there are three databases"),
        }
    }

    /// How many rows the schedule has.
    pub(crate) async fn scheduled(&self) -> i64 {
        let count = "SELECT count(*) FROM schedule";
        match self.pool() {
            AnyPool::Postgres(pool) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
            AnyPool::MySql(pool) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
            AnyPool::Sqlite(pool) => sqlx::query_scalar(count).fetch_one(pool).await.unwrap(),
            _ => unreachable!("there are three databases"),
        }
    }

    pub(crate) async fn execute(&self, sql: &'static str) -> u64 {
        run(self.pool(), sql).await
    }
}

fn committing<DB: barid::store::Backend>(unit: SqlUnitOfWork<DB>) -> SqlUnitOfWork<DB> {
    unit.commit_with_transaction(true)
}

async fn network() -> Memory {
    let network = Memory::new();
    network.declare(&Inbox::new(OUT)).await.unwrap();
    network
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

/// A delivery of `act` that nobody waits for.
fn delivery(act: &Act) -> Delivery {
    struct Unsettled;

    #[async_trait::async_trait]
    impl Settlement for Unsettled {
        async fn ack(self: Box<Self>) -> Result<(), TransportError> {
            Ok(())
        }

        async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
            Ok(())
        }
    }

    Delivery {
        headers: Headers::from_iter([
            (headers::ID, Uuid::now_v7().to_string()),
            (headers::TYPE, Act::NAME.to_owned()),
        ]),
        body: serde_json::to_vec(act).unwrap().into(),
        source: "desk".to_owned(),
        repeat: Repeat::First,
        settlement: Box::new(Unsettled),
    }
}

/// A time of the past, and so many milliseconds.
pub(crate) fn past(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_700_000_000_000 + millis).unwrap()
}

/// Handles `act` as if it had been received.
pub(crate) async fn handle(bus: &Bus, act: Act) -> Result<()> {
    bus.handle(delivery(&act)).await
}
