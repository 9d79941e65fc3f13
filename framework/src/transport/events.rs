//! The event store as a transport: a bus whose messages are the events of all streams.
//!
//! A subscription is the inbox of such a bus. It begins with the first event and goes on where it was, in any process: how far it is
//! is written in the database. One instance reads it at a time; the others wait for its lease to run out.
//!
//! Promised: every event at least once, and the events of a stream one after the other in their order. With idempotency, which
//! recognises events by their ids, every effect once. An event that fails again and again holds up its stream and no other.

mod consumer;
mod desk;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    Consumer, Full, Inbox, Outcome, OutgoingRow, Promises, Publisher, Token, Transport, TransportError,
};
use crate::{
    event_store::{EventStore, EventStoreError},
    limits,
    store::Backend,
};
use consumer::EventConsumer;

/// Feeds the events of a store to the handlers of a bus.
///
/// ```no_run
/// # use barid::{Bus, Context, EventFeed, Message, Result, SqlIdempotency, SqlOutbox, SqlUnitOfWork, event_store::EventStore};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.placed")]
/// # struct OrderPlaced { order_id: u64 }
/// # async fn project(_: OrderPlaced, _: Context) -> Result<()> { Ok(()) }
/// # async fn doc(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
/// let bus = Bus::builder("order-list")
///     .transport(EventFeed::new(EventStore::new(pool.clone())))
///     .unit_of_work(SqlUnitOfWork::new(pool).commit_with_transaction(true))
///     .outbox(SqlOutbox::new())
///     .idempotency(SqlIdempotency::new())
///     .handler(project)
///     .build()?;
/// # drop(bus); Ok(()) }
/// ```
///
/// Events that the bus has no handler for are passed over. Nothing can be sent to an event store: what handlers send goes through
/// an outbox or [`EventFeed::publishing`], and so do dead letters.
pub struct EventFeed<DB: Backend> {
    store: EventStore<DB>,
    lease: Duration,
    begin_behind: u64,
    publishing: Option<Arc<dyn Transport>>,
}

impl<DB: Backend> EventFeed<DB> {
    /// The events of `store`.
    #[must_use]
    pub fn new(store: EventStore<DB>) -> Self {
        Self { store, lease: limits::EVENT_FEED_LEASE, begin_behind: 0, publishing: None }
    }

    /// How long an instance that died keeps others from reading. Default: [`limits::EVENT_FEED_LEASE`].
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.max(Duration::from_secs(1));
        self
    }

    /// Where a subscription begins that does not exist yet: behind the event of this position. Default: 0, with the first event.
    #[must_use]
    pub fn begin_behind(mut self, position: u64) -> Self {
        self.begin_behind = position;
        self
    }

    /// Sends what the bus sends by another transport.
    #[must_use]
    pub fn publishing(mut self, transport: impl Transport) -> Self {
        self.publishing = Some(Arc::new(transport));
        self
    }
}

fn failed(error: &EventStoreError) -> TransportError {
    TransportError::Database(error.to_string())
}

#[async_trait]
impl<DB: Backend> Transport for EventFeed<DB> {
    fn promises(&self) -> Promises {
        Promises {
            durable: true,
            knows_repeats: false,
            delays: true,
            orders_keys: true,
            refuses_unknown_queues: true,
        }
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        self.store.subscribe(&inbox.queue, self.begin_behind).await.map_err(|error| failed(&error))
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        Ok(Box::new(EventConsumer::new(self.store.clone(), inbox, self.lease)))
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        match &self.publishing {
            Some(transport) => transport.publisher().await,
            None => Ok(Box::new(Nowhere(Vec::new()))),
        }
    }
}

/// Refuses every message.
struct Nowhere(Vec<(Token, Outcome)>);

#[async_trait]
impl Publisher for Nowhere {
    fn submit(&mut self, _: &OutgoingRow, token: Token) -> Result<(), Full> {
        if self.0.len() >= limits::WINDOW_ROWS_MAX {
            return Err(Full);
        }
        let cause =
            "an event feed is only read; give the bus an outbox, or the feed a transport: .publishing(..)";
        self.0.push((token, Outcome::Permanent(cause.to_owned())));
        Ok(())
    }

    async fn settled(&mut self) -> Vec<(Token, Outcome)> {
        if self.0.is_empty() {
            std::future::pending::<()>().await;
        }
        std::mem::take(&mut self.0)
    }

    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)> {
        self.0
    }
}
