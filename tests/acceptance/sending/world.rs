//! A broker, a SQLite database and names of their own for one test; buses that run until the test ends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use barid::{
    Bus, BusBuilder, Context, Destination, Headers, Message, Result, SqlQueue, State, Transport,
    store::{AnyPool, schema},
    transport::{Delivery, Inbox, rabbitmq::RabbitMq},
};
use barid_tests::{TestDatabase, names::unique, servers};
use lapin::{Connection, ConnectionProperties, options};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqlitePool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Bounds every wait that ends with an event.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.place")]
pub(crate) struct Place {
    pub(crate) id: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.placed")]
pub(crate) struct Placed {
    pub(crate) id: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.placed_express", extends(Placed))]
pub(crate) struct PlacedExpress {
    pub(crate) id: i64,
    pub(crate) hours: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize, Message)]
#[message(name = "orders.cancelled")]
pub(crate) struct Cancelled {
    pub(crate) id: i64,
}

/// What handlers saw, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn write(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub(crate) fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until there are `count` entries.
    pub(crate) async fn entries(&self, count: usize) -> Vec<String> {
        let what = format!("{count} entries");
        barid_tests::eventually(PATIENCE, &what, || async { self.read().len() >= count }).await;
        self.read()
    }
}

pub(crate) async fn log_placed(event: Placed, log: State<Log>) -> Result<()> {
    log.0.write(format!("placed {}", event.id));
    Ok(())
}

pub(crate) async fn log_express(event: PlacedExpress, log: State<Log>) -> Result<()> {
    log.0.write(format!("express {} {}", event.id, event.hours));
    Ok(())
}

pub(crate) async fn log_place(command: Place, _: Context, log: State<Log>) -> Result<()> {
    log.0.write(format!("place {}", command.id));
    Ok(())
}

pub(crate) struct World<T> {
    pub(crate) transport: T,
    pub(crate) database: TestDatabase<Sqlite>,
    /// In front of every name of this test.
    prefix: String,
    buses: Mutex<Vec<(CancellationToken, JoinHandle<()>)>>,
    names: Mutex<Vec<String>>,
    rabbitmq: bool,
}

impl World<SqlQueue> {
    pub(crate) async fn sqlite() -> Self {
        let database = TestDatabase::sqlite().await;
        schema::apply(&AnyPool::Sqlite(database.pool.clone())).await.unwrap();
        let transport = SqlQueue::new(database.pool.clone());
        Self::new(transport, database, false)
    }
}

impl World<RabbitMq> {
    pub(crate) async fn rabbitmq() -> Self {
        let database = TestDatabase::sqlite().await;
        schema::apply(&AnyPool::Sqlite(database.pool.clone())).await.unwrap();
        let transport = RabbitMq::connect(&servers::amqp()).await.unwrap();
        Self::new(transport, database, true)
    }
}

impl<T: Transport + Clone> World<T> {
    fn new(transport: T, database: TestDatabase<Sqlite>, rabbitmq: bool) -> Self {
        let (prefix, buses, names) = (unique("sending"), Mutex::default(), Mutex::default());
        Self { transport, database, prefix, buses, names, rabbitmq }
    }

    /// A name for a queue or a topic of this test.
    pub(crate) fn name(&self, what: &str) -> String {
        let name = format!("{}-{what}", self.prefix);
        let mut names = self.names.lock().unwrap();
        if !names.contains(&name) {
            names.push(name.clone());
        }
        name
    }

    pub(crate) fn queue(&self, what: &str) -> Destination {
        Destination::queue(self.name(what)).unwrap()
    }

    pub(crate) fn pool(&self) -> SqlitePool {
        self.database.pool.clone()
    }

    /// A bus of this test: its name, its topics and its dead letters are nobody else's.
    pub(crate) fn bus(&self, what: &str) -> BusBuilder {
        for topic in ["orders", "orders.placed", "orders.placed_express", "orders.cancelled", "orders.place"]
        {
            self.name(topic);
        }
        let prefix = self.prefix.clone();
        Bus::builder(self.name(what))
            .transport(self.transport.clone())
            .dead_letters(self.name("dead"))
            .topic_names(move |_, aggregate| format!("{prefix}-{aggregate}"))
    }

    /// The same, with a topic of its own for each event.
    pub(crate) fn bus_by_name(&self, what: &str) -> BusBuilder {
        let prefix = self.prefix.clone();
        self.bus(what).topic_names(move |name, _| format!("{prefix}-{name}"))
    }

    /// Runs a bus until the test ends; returns when its queue is there.
    pub(crate) async fn run(&self, bus: BusBuilder) -> Bus {
        let bus = bus.build().unwrap();
        bus.declare().await.unwrap();
        let (stop, running) = (CancellationToken::new(), bus.clone());
        let stopped = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move { running.run_until(stopped).await.unwrap() });
        self.buses.lock().unwrap().push((stop, task));
        bus
    }

    /// Makes a queue that no bus receives from.
    pub(crate) async fn declare(&self, what: &str) -> Destination {
        self.transport.declare(&Inbox::new(self.name(what))).await.unwrap();
        self.queue(what)
    }

    /// Takes the next message out of a queue.
    pub(crate) async fn take(&self, what: &str) -> (Headers, bytes::Bytes) {
        let inbox = Inbox { prefetch: 1, ..Inbox::new(self.name(what)) };
        let mut consumer = self.transport.consumer(&inbox).await.unwrap();
        let received = tokio::time::timeout(PATIENCE, consumer.receive()).await;
        let Delivery { headers, body, settlement, .. } =
            received.unwrap_or_else(|_| panic!("nothing arrives in {what}")).unwrap();
        settlement.ack().await.unwrap();
        consumer.close().await.unwrap();
        (headers, body)
    }

    /// Stops the buses and removes everything.
    pub(crate) async fn end(self) {
        let buses = std::mem::take(&mut *self.buses.lock().unwrap());
        for (stop, task) in buses {
            stop.cancel();
            task.await.unwrap();
        }
        if self.rabbitmq {
            let properties = ConnectionProperties::default();
            let connection = Connection::connect(&servers::amqp(), properties).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            for name in self.names.into_inner().unwrap() {
                let options = options::QueueDeleteOptions::default();
                channel.queue_delete(name.as_str().into(), options).await.unwrap();
                let options = options::ExchangeDeleteOptions::default();
                channel.exchange_delete(name.as_str().into(), options).await.unwrap();
            }
            connection.close(200, "done".into()).await.unwrap();
        }
        self.database.drop_now().await;
    }
}
