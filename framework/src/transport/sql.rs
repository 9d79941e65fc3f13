//! The SQL queue: messages as rows of a table, for those who have a database and no broker.
//!
//! It works on PostgreSQL, MariaDB, MySQL and SQLite and keeps every promise of [`Promises`]. A message to `queue:NAME` is one
//! row, to `topic:NAME` one row for each queue that subscribed. A consumer claims rows for a time (the *lease*) by the
//! database's clock, renews the claim while the delivery is unsettled, and deletes the row when it is acknowledged.
//!
//! Order: a row with a key is handed out only when no earlier row of its queue and key is left in the table, so a message
//! that is retried holds back its own key and no other. Among different keys, and in one look at up to 256 of them, the oldest
//! row goes first.
//!
//! What it does not do: it opens no transaction of the application (that is the outbox), and keeps no history.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use self::{
    consumer::SqlConsumer,
    publisher::SqlPublisher,
    queue::{Bound, Shared},
};
use super::{Consumer, Inbox, Promises, Publisher, Transport, TransportError};
use crate::{destination::checked_name, store::AnyPool};

mod acks;
mod claims;
mod consumer;
mod doorbell;
mod error;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod publisher;
mod queue;
#[cfg(feature = "sqlite")]
mod sqlite;

/// How long a claim holds a row unless it is renewed, if nothing else is said. A third of it passes between renewals.
pub const LEASE: Duration = Duration::from_secs(60);

/// The transport. Cheap to clone; the clones share the pool.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use barid::{store::AnyPool, transport::{Inbox, Transport, sql::SqlQueue}};
///
/// let queue = SqlQueue::new(AnyPool::connect("sqlite:orders.db", 4).await?);
/// let inbox = Inbox::new("shipping").topic("orders");
/// queue.declare(&inbox).await?;
/// let mut consumer = queue.consumer(&inbox).await?;
/// let delivery = consumer.receive().await?;
/// delivery.settlement.ack().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqlQueue {
    database: Shared,
    lease: Duration,
}

impl SqlQueue {
    /// The queues of the database that `pool` is open on. The schema must be there: `barid-relay schema apply`.
    ///
    /// Each consumer and each publisher uses one connection at a time, and only while a statement runs.
    #[must_use]
    pub fn new(pool: impl Into<AnyPool>) -> Self {
        Self { database: Arc::new(Bound::new(pool.into())), lease: LEASE }
    }

    /// How long a claim holds a row unless it is renewed: how long a message of a consumer that died stays away. At least a
    /// second. Default: [`LEASE`].
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_secs(1));
        self
    }
}

impl std::fmt::Debug for SqlQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlQueue").field("place", &self.database.place()).field("lease", &self.lease).finish()
    }
}

#[async_trait]
impl Transport for SqlQueue {
    fn promises(&self) -> Promises {
        Promises {
            durable: true,
            knows_repeats: true,
            delays: true,
            orders_keys: true,
            refuses_unknown_queues: true,
        }
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        for name in std::iter::once(&inbox.queue).chain(&inbox.topics) {
            checked_name(name.clone()).map_err(|cause| TransportError::Misconfigured {
                what: format!("inbox {:?}", inbox.queue),
                cause: cause.to_string(),
                remedy: "choose another name".to_owned(),
            })?;
        }
        let declare = || self.database.statements().declare(&inbox.queue, &inbox.topics);
        self.database.call("declare", declare).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        Ok(Box::new(SqlConsumer::start(self.database.clone(), inbox, self.lease)))
    }

    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), TransportError> {
        let unsubscribe = || self.database.statements().unsubscribe(queue, topic);
        self.database.call("unsubscribe", unsubscribe).await
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        Ok(Box::new(SqlPublisher::start(self.database.clone())))
    }
}
