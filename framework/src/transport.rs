//! Where messages come in and go out: the contract of a transport.
//!
//! A [`Transport`] gives out [`Consumer`]s, which a bus reads, and [`Publisher`]s, which the relay and buses without an
//! outbox write to. There is one client per broker: the relay's sinks wrap the publishing half of the modules below.
//!
//! What every implementation promises is written on the traits; what only some keep is in [`Promises`]. The conformance
//! suite in `testing::conformance` runs the same cases against all of them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::{
    destination::Destination,
    headers::{self, Headers},
    store::backend::IdempotencyKey,
};

pub(crate) mod events;
mod inbox;
#[cfg(feature = "kafka")]
pub mod kafka;
mod link;
pub mod memory;
mod promises;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub mod sql;
mod wire;

pub use inbox::Inbox;
pub use link::Link;
pub use promises::Promises;
pub use wire::Wire;

/// A message on its way out: one row of the outbox, or one message of a bus without outbox.
///
/// Routing is already decided and the payload is opaque bytes; whoever publishes it needs no application type.
#[derive(Clone, Debug, PartialEq)]
pub struct OutgoingRow {
    /// The position in the outbox, or 0 for a message that never was in one.
    pub seq: i64,
    /// The message id.
    pub id: Uuid,
    /// Where it goes.
    pub destination: Destination,
    /// First half of the ordering key.
    pub aggregatetype: String,
    /// Second half of the ordering key; `None` means unordered.
    pub aggregateid: Option<String>,
    /// The message name.
    pub name: String,
    /// The body; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Everything else that travels, without what has a column of its own.
    pub headers: Headers,
    /// W3C `traceparent` of the span that made the message.
    pub tracingspancontext: Option<String>,
    /// Exactly what travels beside the payload, in place of the headers and columns. Normally `None`: the transport's own form.
    pub wire: Option<Arc<Wire>>,
}

impl OutgoingRow {
    /// The headers as a consumer will see them: the row's own headers and those that the columns stand for, or those of `wire`.
    #[must_use]
    pub fn wire_headers(&self) -> Headers {
        let mut all = Headers::new();
        self.each_wire_header(|name, value| all.set(name, value));
        all
    }

    /// Shows each of [`OutgoingRow::wire_headers`] once, without building a map: for transports that publish fast.
    pub fn each_wire_header(&self, mut show: impl FnMut(&str, &str)) {
        if let Some(wire) = &self.wire {
            return wire.each().for_each(|(name, value)| show(name, value));
        }
        let mut id = Uuid::encode_buffer();
        let columns = [
            (headers::ID, Some(&*self.id.hyphenated().encode_lower(&mut id))),
            (headers::TYPE, Some(self.name.as_str())),
            (headers::AGGREGATE, Some(self.aggregatetype.as_str())),
            (headers::KEY, self.aggregateid.as_deref()),
            (headers::TRACEPARENT, self.tracingspancontext.as_deref()),
        ];
        let is_column = |name: &str| columns.iter().any(|(column, value)| value.is_some() && *column == name);
        self.headers.iter().filter(|(name, _)| !is_column(name)).for_each(|(name, value)| show(name, value));
        columns
            .iter()
            .filter_map(|(name, value)| Some((name, (*value)?)))
            .for_each(|(name, value)| show(name, value));
    }

    /// The payload's size in bytes, 0 for a tombstone.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload.as_ref().map_or(0, Bytes::len)
    }
}

/// The caller's name for a submitted row. A publisher hands it back with the outcome and never looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// The publisher's window is full: settle something first. The row was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the publisher's window is full")]
pub struct Full;

/// What became of one submitted row. Decided once, by the publisher that knows its broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it: a positive confirm for exactly this row, and it was routed.
    Confirmed,
    /// The broker certainly does not have it, and trying again can help.
    Transient(String),
    /// The broker certainly does not have it, and trying again cannot help (unknown destination, too large, refused).
    Permanent(String),
    /// Nobody knows: the answer was lost. Send again with the same id.
    Unknown(String),
}

/// The publishing half of a transport. Never waits for a batch.
///
/// Rows of one ordering key that are in flight together are published in the order in which they were submitted. After a
/// row's negative outcome a later row of the same key may already have arrived: a caller that cannot accept this keeps
/// one row per key in flight (`strict`).
///
/// An implementation owns its reconnects. While it has no connection, submitted rows settle as [`Outcome::Transient`];
/// rows whose connection was lost under them settle as [`Outcome::Unknown`]. Every accepted row settles exactly once.
#[async_trait]
pub trait Publisher: Send {
    /// Hands one row to the client without waiting. The payload is shared, not copied.
    ///
    /// # Errors
    /// [`Full`] when the window is full; the row was not taken and may be submitted again after [`Publisher::settled`].
    fn submit(&mut self, row: &OutgoingRow, token: Token) -> Result<(), Full>;

    /// At least one outcome, as soon as there is one, and all others that are known by then. Pends for ever while
    /// nothing is in flight. Cancel safe: an outcome that was not returned is returned by the next call.
    async fn settled(&mut self) -> Vec<(Token, Outcome)>;

    /// Gives up every row that has not settled: what can still be held back is not sent, and each settles soon, as unknown or
    /// transient. For a caller that may not publish any longer, such as a relay whose lease is over. Rows that are submitted
    /// later are published as ever. The default gives up nothing: it is for publishers that hold nothing back.
    fn give_up(&mut self) {}

    /// How it stands with the broker, as far as is known, for whoever watches. The default is for publishers without a connection
    /// of their own.
    fn link(&self) -> Link {
        Link::Up
    }

    /// Stops taking rows, waits a bounded time for those in flight, and returns one outcome for each of them.
    async fn close(self: Box<Self>) -> Vec<(Token, Outcome)>;
}

/// Whether a delivery may have been handed out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Certainly the first time.
    First,
    /// Handed out before, or the transport cannot tell.
    Possible,
}

/// One received message and the right to settle it once.
///
/// Dropping it unsettled gives the message back after the transport's own time (a closed channel, an expired claim).
pub struct Delivery {
    /// The headers as they arrived.
    pub headers: Headers,
    /// The body as it arrived.
    pub body: Bytes,
    /// The queue or topic that it was received from, for logs and dead letters.
    pub source: String,
    /// Whether it may be a repeat.
    pub repeat: Repeat,
    /// How to settle it.
    pub settlement: Box<dyn Settlement>,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .field("source", &self.source)
            .field("repeat", &self.repeat)
            .finish_non_exhaustive()
    }
}

/// Settles one delivery, once.
#[async_trait]
pub trait Settlement: Send {
    /// The message is done: it is never delivered again.
    ///
    /// # Errors
    /// When the broker did not take the answer; the message will come again.
    async fn ack(self: Box<Self>) -> Result<(), TransportError>;

    /// The message is not done: deliver it again, not before `after` where the transport can wait.
    ///
    /// # Errors
    /// When the broker did not take the answer; the message will come again all the same.
    async fn nack(self: Box<Self>, after: Duration) -> Result<(), TransportError>;

    /// The message is given up: puts `letter` in its place and forgets the attempts at `key`, all in one transaction. The
    /// delivery is settled then. `None`, the default: this transport cannot, and nothing was done.
    ///
    /// # Errors
    /// When it did not happen for certain; the message may come again, and a letter that was written all the same has the
    /// same id.
    async fn bury(
        &mut self,
        letter: &OutgoingRow,
        key: &IdempotencyKey,
    ) -> Option<Result<(), TransportError>> {
        let _ = (letter, key); // for those who can
        None
    }
}

/// The receiving half of a transport.
#[async_trait]
pub trait Consumer: Send {
    /// The next delivery; waits until there is one. Cancel safe.
    ///
    /// # Errors
    /// When the connection is lost or refused. The consumer reconnects by itself: call again after a pause.
    async fn receive(&mut self) -> Result<Delivery, TransportError>;

    /// How long ago the broker was last heard of: an answer to a look, or now while a connection is known to be open. `None`,
    /// the default, is for a consumer that cannot tell: the worker then takes it for well as long as its own loop runs.
    fn silent_for(&mut self) -> Option<Duration> {
        None
    }

    /// Stops receiving. Deliveries already handed out can still be settled while their settlement lives.
    ///
    /// # Errors
    /// When the broker cannot be told; it will find out by the closed connection.
    async fn close(self: Box<Self>) -> Result<(), TransportError>;
}

/// A way for messages to travel.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// What this transport keeps beyond the common contract.
    fn promises(&self) -> Promises;

    /// Whether its publishers commit rows in batches, each as a whole: after a negative outcome no later row that was in flight
    /// with it arrives. Rows of a key can be in flight together then without a risk to their order.
    fn publishes_atomically(&self) -> bool {
        false
    }

    /// Makes the inbox's queue and its bindings when they do not exist. May be called by several processes at once, and
    /// again at every start.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError>;

    /// Starts to receive from an inbox that was declared.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError>;

    /// Also delivers to `queue` what is published to `topic` from now on, also to a consumer that runs. Makes both when they do
    /// not exist. May be called by several processes at once; again it changes nothing.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    async fn subscribe(&self, queue: &str, topic: &str) -> Result<(), TransportError> {
        self.declare(&Inbox::new(queue).topic(topic)).await
    }

    /// No longer delivers to `queue` what is published to `topic`. What is in the queue stays. Nothing changes when there was
    /// no subscription, no such topic or no such queue.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses, and on a transport that has no subscriptions.
    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), TransportError> {
        Err(TransportError::Misconfigured {
            what: format!("subscription of queue {queue:?} to topic {topic:?}"),
            cause: "this transport cannot end subscriptions".to_owned(),
            remedy: "keep them in a store: Subscriptions::centralised(..)".to_owned(),
        })
    }

    /// Which of these destinations do not exist, each with what to do about it. Changes nothing. None, the default, on a
    /// transport where a destination need not be made.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    async fn missing(&self, destinations: &[Destination]) -> Result<Vec<String>, TransportError> {
        let _ = destinations; // for those who can tell
        Ok(Vec::new())
    }

    /// Makes these destinations where they do not exist: queues that nobody reads yet, topics without a subscriber. May be
    /// called by several processes at once, and again at every start. The default makes nothing, as nothing need be made.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses.
    async fn make(&self, destinations: &[Destination]) -> Result<(), TransportError> {
        let _ = destinations; // for those who must
        Ok(())
    }

    /// A publisher of its own.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses the credentials.
    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError>;

    /// Removes a temporary inbox with what is in it. One that does not exist is removed already.
    ///
    /// # Errors
    /// When the broker cannot be reached or refuses; the inbox may stay, nobody reads it any more.
    async fn remove(&self, _inbox: &Inbox) -> Result<(), TransportError> {
        Ok(())
    }
}

/// What can go wrong between us and a broker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The broker cannot be reached. Check the address, and that it runs.
    #[error("cannot reach {broker}: {cause}")]
    Unreachable {
        /// Address without credentials.
        broker: String,
        /// What the client said.
        cause: String,
    },
    /// The broker refused the credentials or the permission. Check user, password and grants.
    #[error("{broker} refused the credentials: {cause}")]
    Refused {
        /// Address without credentials.
        broker: String,
        /// What the client said.
        cause: String,
    },
    /// A connection that worked was lost. What was in flight on it will come again.
    #[error("connection to {broker} lost: {cause}")]
    Lost {
        /// Address without credentials.
        broker: String,
        /// What the client said.
        cause: String,
    },
    /// A call took longer than its bound; its outcome is unknown.
    #[error("{broker} did not answer {call} within {after:?}")]
    Timeout {
        /// Address without credentials.
        broker: String,
        /// What was asked.
        call: &'static str,
        /// The bound.
        after: Duration,
    },
    /// Destinations that are published to do not exist. Make them: nothing is published before.
    #[error("{}", what.join("; "))]
    Missing {
        /// Each of them, and what to do.
        what: Vec<String>,
    },
    /// The address, a setting or the topology does not fit. Trying again cannot help.
    #[error("{what}: {cause}; {remedy}")]
    Misconfigured {
        /// The thing that does not fit.
        what: String,
        /// Why.
        cause: String,
        /// What to do.
        remedy: String,
    },
    /// The database below a SQL queue failed.
    #[error("queue database: {0}")]
    Database(String),
}

impl TransportError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Misconfigured { .. } | Self::Refused { .. })
    }
}
