//! A journal of what happened, deliveries whose settling is written down in it, and a unit of work that does the same.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Bus, BusBuilder, BusError, Context, HandWritten, Headers, Incoming, Memory, Message, Result, RetryPolicy,
    Stage, Transport, headers,
    store::{AnyPool, schema},
    transport::{Delivery, Inbox, Repeat, Settlement, TransportError},
    unit_of_work::{CommitError, Unit},
};
use barid_tests::{TestDatabase, eventually};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const BUS: &str = "orders";
pub(crate) const DEAD: &str = "dead-letters";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
pub(crate) struct Place {
    pub(crate) id: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
pub(crate) struct Placed {
    pub(crate) id: i64,
}

/// What happened, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    pub(crate) fn write(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub(crate) fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until there are `count` entries, and returns them.
    pub(crate) async fn until(&self, count: usize) -> Vec<String> {
        eventually(PATIENCE, &format!("{count} entries"), || async { self.read().len() >= count }).await;
        self.read()
    }

    /// Registers an action of each kind that writes its name; the `failing` one fails then.
    pub(crate) fn watch(&self, cx: &Context, failing: Option<Stage>) -> Result<()> {
        for (stage, name) in [
            (Stage::Commit, "commit"),
            (Stage::Rollback, "rollback"),
            (Stage::Ack, "ack"),
            (Stage::Nack, "nack"),
            (Stage::Close, "close"),
        ] {
            let journal = self.clone();
            cx.transaction().on(stage, move || journal.action(name, failing == Some(stage)))?;
        }
        let journal = self.clone();
        cx.transaction().on_error(move |_| journal.write("error"));
        Ok(())
    }

    fn action(self, name: &'static str, fails: bool) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            self.write(name);
            if fails { Err(barid::Error::new(format!("{name} fails"))) } else { Ok(()) }
        })
    }
}

/// A bus on a network of its own, whose queue for dead letters is there. Three attempts.
pub(crate) async fn bus(network: &Memory) -> BusBuilder {
    network.declare(&Inbox::new(DEAD)).await.unwrap();
    let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    Bus::builder(BUS).transport(network.clone()).retry(policy)
}

/// A bus that runs, and whose queue is there.
pub(crate) struct Running {
    pub(crate) bus: Bus,
    stop: CancellationToken,
    task: JoinHandle<Result<(), BusError>>,
}

impl Running {
    pub(crate) async fn start(bus: BusBuilder) -> Self {
        let bus = bus.build().unwrap();
        bus.declare().await.unwrap();
        let (running, stop) = (bus.clone(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        Self { bus, stop, task: tokio::spawn(async move { running.run_until(stopped).await }) }
    }

    /// Tells it to stop, and does not wait.
    pub(crate) fn tell(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn stop(self) {
        self.tell();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the bus stops").unwrap().unwrap();
    }
}

/// A SQLite database with the schema.
pub(crate) async fn database() -> TestDatabase<Sqlite> {
    let database = TestDatabase::sqlite().await;
    schema::apply(&AnyPool::Sqlite(database.pool.clone())).await.unwrap();
    database
}

pub(crate) fn delivery(message: Uuid, id: i64) -> Delivery {
    carrying(message, &Place { id })
}

/// A first delivery of any message.
pub(crate) fn carrying<M: Message>(id: Uuid, message: &M) -> Delivery {
    Delivery {
        headers: Headers::from_iter([(headers::ID, id.to_string()), (headers::TYPE, M::NAME.to_owned())]),
        body: serde_json::to_vec(message).unwrap().into(),
        source: BUS.into(),
        repeat: Repeat::First,
        settlement: Box::new(Ignored),
    }
}

struct Ignored;

#[async_trait::async_trait]
impl Settlement for Ignored {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        Ok(())
    }
}

/// A delivery whose answer cannot be given.
pub(crate) fn unanswerable(message: Uuid, id: i64) -> Delivery {
    Delivery { settlement: Box::new(Gone), ..delivery(message, id) }
}

struct Gone;

#[async_trait::async_trait]
impl Settlement for Gone {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        Err(TransportError::Database("gone".into()))
    }

    async fn nack(self: Box<Self>, _: Duration) -> Result<(), TransportError> {
        Err(TransportError::Database("gone".into()))
    }
}

/// A unit of work that writes down what becomes of it.
pub(crate) struct Draft {
    pub(crate) journal: Journal,
}

#[async_trait::async_trait]
impl Unit for Draft {
    async fn commit(&mut self) -> Result<(), CommitError> {
        self.journal.write("unit commits");
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.journal.write("unit rolls back");
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        self.journal.write("unit closes");
        Ok(())
    }
}

/// Makes [`Draft`]s and writes down for which message.
pub(crate) fn drafts(
    journal: &Journal,
) -> HandWritten<impl Fn(Incoming) -> BoxFuture<'static, Result<Draft>> + Send + Sync + 'static, Draft> {
    let journal = journal.clone();
    HandWritten::new(move |message: Incoming| -> BoxFuture<'static, Result<Draft>> {
        journal.write(format!("unit for {}", message.id));
        let draft = Draft { journal: journal.clone() };
        Box::pin(std::future::ready(Ok(draft)))
    })
}
