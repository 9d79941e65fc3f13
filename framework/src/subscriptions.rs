//! Who gets an event: what a bus knows about the subscribers of a topic, and how a bus subscribes.
//!
//! | | who keeps the subscriptions | publishing | subscribing |
//! |---|---|---|---|
//! | [`Subscriptions::native`] (default) | the transport | one message a topic | a binding, a row, a topic of the transport |
//! | [`Subscriptions::centralised`] | one store that all buses share | one message for each subscribed queue | a row of the store |
//! | [`Subscriptions::decentralised`] | each publisher, in a store of its own | the same | a request to the queue that owns the event by routing |
//!
//! Publisher and subscriber of an event must agree: a bus that subscribed at its transport gets nothing from a publisher that
//! asks a store. A subscription is to a topic; by default the events of one aggregate share one, see
//! [`BusBuilder::topic_names`](crate::BusBuilder::topic_names).

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    destination::{Destination, checked_name},
    error::{Error, Result},
    headers,
    incoming::Incoming,
    message::Outgoing,
};

mod directory;
mod memory;

pub(crate) use directory::Directory;
pub use memory::MemorySubscriptions;

/// Which queues subscribed to which topics.
///
/// Called by publishers and subscribers of several processes at once; every change is one atomic step, and repeating it
/// changes nothing.
#[async_trait]
pub trait SubscriptionStore: Send + Sync + 'static {
    /// Whether it can be used; asked when a bus starts.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// The queues that subscribed to `topic`, ordered by name, at most `queues_max`. Sees every change that returned before.
    ///
    /// # Errors
    /// When the store cannot be asked. Nothing is published then.
    async fn subscribers(&self, topic: &str, queues_max: usize) -> Result<Vec<String>>;

    /// Adds `queue` to the subscribers of `topic`. No change when it is one already.
    ///
    /// # Errors
    /// When the store did not take it, or did not answer; doing it again is safe.
    async fn subscribe(&self, topic: &str, queue: &str) -> Result<()>;

    /// Takes `queue` from the subscribers of `topic`. No change when it is none.
    ///
    /// # Errors
    /// When the store did not take it, or did not answer; doing it again is safe.
    async fn unsubscribe(&self, topic: &str, queue: &str) -> Result<()>;
}

/// How a bus finds the subscribers of what it publishes, and subscribes to what others publish. Cheap to clone; clones share
/// what they know, so give the same one to [`Outbox`](crate::Outbox) and [`Sender`](crate::Sender).
#[derive(Clone)]
pub struct Subscriptions {
    store: Option<Arc<Directory>>,
    owners_are_asked: bool,
}

impl Subscriptions {
    /// The transport's own: bindings of RabbitMQ, topics of Kafka, rows of the SQL queue. The default.
    #[must_use]
    pub fn native() -> Self {
        Self { store: None, owners_are_asked: false }
    }

    /// One store for all buses that publish or subscribe.
    #[must_use]
    pub fn centralised(store: impl SubscriptionStore) -> Self {
        Self { store: Some(Arc::new(Directory::new(store))), owners_are_asked: false }
    }

    /// A store for the events that this bus publishes; others ask this bus for a subscription, and this bus asks the owners of
    /// what it subscribes to.
    #[must_use]
    pub fn decentralised(store: impl SubscriptionStore) -> Self {
        Self { store: Some(Arc::new(Directory::new(store))), owners_are_asked: true }
    }

    /// For a bus that only subscribes, to events of decentralised publishers.
    #[must_use]
    pub fn by_request() -> Self {
        Self { store: None, owners_are_asked: true }
    }

    /// The store, when there is one.
    pub(crate) fn store(&self) -> Option<&Directory> {
        self.store.as_deref()
    }

    /// Whether this bus subscribes by a request to the owner.
    pub(crate) fn owners_are_asked(&self) -> bool {
        self.owners_are_asked
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self::native()
    }
}

impl fmt::Debug for Subscriptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.store, self.owners_are_asked) {
            (None, false) => "native",
            (Some(_), false) => "centralised",
            (Some(_), true) => "decentralised",
            (None, true) => "by request",
        })
    }
}

/// What becomes of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It shall exist.
    Subscribe,
    /// It shall not exist.
    Unsubscribe,
}

impl Change {
    /// The wire name of the request.
    fn wire_name(self) -> &'static str {
        match self {
            Self::Subscribe => "barid.subscribe",
            Self::Unsubscribe => "barid.unsubscribe",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    topic: String,
    queue: String,
}

/// The message that asks the owner of a topic for a change. Always JSON: the two buses may have different codecs. Its key keeps
/// the requests of one queue in order.
pub(crate) fn request(change: Change, topic: &str, queue: &str, owner: Destination) -> Result<Outgoing> {
    let body = serde_json::to_vec(&Request { topic: topic.to_owned(), queue: queue.to_owned() })?;
    Ok(Outgoing::raw(change.wire_name(), bytes::Bytes::from(body))
        .header(headers::CONTENT_TYPE, "application/json")
        .key(queue)
        .to(owner))
}

/// Carries out a received request. `false`: it is none.
pub(crate) async fn answer(message: &Incoming, directory: &Directory) -> Result<bool> {
    let changes = [Change::Subscribe, Change::Unsubscribe];
    let Some(change) = changes.into_iter().find(|change| change.wire_name() == message.name) else {
        return Ok(false);
    };
    let unreadable = |cause: String| Error::permanent(format!("{:?} cannot be read: {cause}", message.name));
    let request: Request =
        serde_json::from_slice(&message.body).map_err(|error| unreadable(error.to_string()))?;
    for name in [&request.topic, &request.queue] {
        checked_name(name.clone()).map_err(|error| unreadable(error.to_string()))?;
    }
    directory.change(change, &request.topic, &request.queue).await?;
    tracing::info!(topic = request.topic, queue = request.queue, ?change, "subscription requested");
    Ok(true)
}
