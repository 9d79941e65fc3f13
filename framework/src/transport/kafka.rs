//! Apache Kafka, through librdkafka.
//!
//! `queue:NAME` and `topic:NAME` are both topic NAME; the record key is `aggregateid`, so the messages of a key share a
//! partition and keep their order. A bus receives as consumer group `inbox.queue` from the topic of that name and from the
//! inbox's topics.
//!
//! What it promises: every published row is acknowledged by all in-sync replicas, a refused one is named with the reason;
//! a received message is committed only after it and everything before it in its partition was handled; one message of a
//! key is out at a time, also through retries. With [`Settings::transactional_id`] rows are published in transactions. What it does
//! not do: moving a message that waits for its retry to another process (after a crash or a rebalance it comes again at once).
//!
//! | file | what |
//! |---|---|
//! | `settings` | what may be chosen, and the librdkafka configuration that follows |
//! | `client` | questions to the cluster, making topics |
//! | `transactional`, `batch` | sending with one Kafka transaction a batch |
//! | `publisher`, `router`, `caretaker`, `held`, `producer`, `outcome` | sending: where the next row goes, who waits, what is in flight, what a report means |
//! | `consumer`, `reader`, `desk`, `gate`, `offsets` | receiving: the async side, the thread, and the pure core between them |
//! | `interest` | subscriptions that change while a consumer runs |
//! | `wire` | headers and error codes |

mod batch;
mod caretaker;
mod client;
mod consumer;
mod desk;
#[cfg(test)]
mod faults;
mod gate;
mod held;
mod interest;
mod offsets;
mod outcome;
mod producer;
mod publisher;
mod reader;
mod router;
mod settings;
mod transactional;
mod wire;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::Notify;

pub use self::settings::Settings;
use self::{
    client::{Probe, blocking},
    consumer::KafkaConsumer,
    desk::{Bounds, Desk},
    interest::Interests,
    publisher::KafkaPublisher,
    reader::Shared,
    settings::misconfigured,
    transactional::TransactionalPublisher,
};
use super::{Consumer, Inbox, Promises, Publisher, Transport, TransportError};
use crate::Destination;

/// A Kafka cluster as a transport.
///
/// ```no_run
/// # async fn example() -> Result<(), barid::transport::TransportError> {
/// use barid::transport::kafka::Kafka;
/// let kafka = Kafka::connect("localhost:9092").await?;
/// # drop(kafka);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Kafka {
    settings: Arc<Settings>,
    interests: Interests,
}

impl Kafka {
    /// A cluster with these settings. Checks them, and does not connect yet.
    ///
    /// # Errors
    /// [`TransportError::Misconfigured`] when no broker is named, or a property is unknown, has a value that librdkafka
    /// does not allow, or would break a promise; it names the property.
    pub fn new(settings: Settings) -> Result<Self, TransportError> {
        settings.check()?;
        Ok(Self { settings: Arc::new(settings), interests: Interests::default() })
    }

    /// The cluster at `brokers` (`host:port`, separated by commas) with the default settings; waits until it answers.
    ///
    /// # Errors
    /// When no broker answers within [`Settings::connect_timeout`].
    pub async fn connect(brokers: impl Into<String>) -> Result<Self, TransportError> {
        let kafka = Self::new(Settings::new(brokers))?;
        kafka.ask(|_| Ok(())).await?;
        Ok(kafka)
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Probe) -> Result<T, TransportError> + Send + 'static,
    ) -> Result<T, TransportError> {
        let settings = Arc::clone(&self.settings);
        blocking(&self.settings.brokers, move || question(&Probe::connect(&settings)?)).await
    }
}

#[async_trait]
impl Transport for Kafka {
    fn promises(&self) -> Promises {
        Promises {
            durable: true,
            knows_repeats: false,
            delays: true,
            orders_keys: true,
            refuses_unknown_queues: true,
        }
    }

    fn publishes_atomically(&self) -> bool {
        self.settings.transactional_id.is_some()
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        let topics = topics_of(inbox);
        let runtime = tokio::runtime::Handle::current();
        let temporary = inbox.temporary;
        self.ask(move |probe| probe.declare(&topics, temporary, &runtime)).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        let interest = interest::of(&self.interests, &inbox.queue);
        let topics = interest.topics(inbox);
        if let Some(topic) = self.ask(move |probe| probe.missing(&topics)).await?.pop_first() {
            let remedy = "declare the inbox before you receive from it";
            return Err(misconfigured(&format!("topic {topic:?}"), "it does not exist", remedy));
        }
        let bounds = Bounds {
            prefetch: usize::from(inbox.prefetch.max(1)),
            held_max: self.settings.held_rows_max,
            open_max: self.settings.open_offsets_max.max(1),
        };
        let shared = Arc::new(Shared {
            settings: Arc::clone(&self.settings),
            interest,
            desk: Mutex::new(Desk::new(bounds)),
            news: Notify::new(),
            finished: Notify::new(),
        });
        reader::start(&shared, inbox)?;
        Ok(Box::new(KafkaConsumer { shared, inbox: inbox.clone() }))
    }

    /// Holds as long as this transport and its clones do; Kafka itself keeps no subscriptions.
    async fn subscribe(&self, queue: &str, topic: &str) -> Result<(), TransportError> {
        self.declare(&Inbox::new(queue).topic(topic)).await?;
        interest::of(&self.interests, queue).add(topic);
        Ok(())
    }

    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), TransportError> {
        interest::of(&self.interests, queue).remove(topic);
        Ok(())
    }

    async fn missing(&self, destinations: &[Destination]) -> Result<Vec<String>, TransportError> {
        let topics = names_of(destinations);
        let missing = self.ask(move |probe| probe.missing(&topics)).await?;
        let remedy = "create it, or correct the destination";
        Ok(missing.iter().map(|topic| format!("topic {topic:?} does not exist; {remedy}")).collect())
    }

    async fn make(&self, destinations: &[Destination]) -> Result<(), TransportError> {
        let topics = names_of(destinations);
        let runtime = tokio::runtime::Handle::current();
        self.ask(move |probe| probe.declare(&topics, false, &runtime)).await
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        self.ask(|_| Ok(())).await?;
        if self.settings.transactional_id.is_some() {
            return Ok(Box::new(TransactionalPublisher::start(&self.settings)?));
        }
        Ok(Box::new(KafkaPublisher::start(&self.settings)?))
    }

    async fn remove(&self, inbox: &Inbox) -> Result<(), TransportError> {
        let runtime = tokio::runtime::Handle::current();
        let topic = inbox.queue.clone();
        self.ask(move |probe| probe.remove(&topic, &runtime)).await
    }
}

fn names_of(destinations: &[Destination]) -> BTreeSet<String> {
    destinations.iter().map(|destination| destination.name().to_owned()).collect()
}

fn topics_of(inbox: &Inbox) -> BTreeSet<String> {
    std::iter::once(&inbox.queue).chain(&inbox.topics).cloned().collect()
}
