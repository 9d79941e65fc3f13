//! Several messages in one unit of work: how throughput passes what a database can commit in a second.
//!
//! With [`BusBuilder::batch`](crate::BusBuilder::batch) the worker takes what is ready, up to a number, and handles it together:
//! one opening text with the idempotency records of all messages, the handlers one message after the other, one closing text
//! with all outbox rows in the order of handling, one COMMIT; then each message is acknowledged by itself. Every message keeps
//! its own [`Context`], with its own headers, transaction context, actions and sends.
//!
//! A handler that was added with [`BusBuilder::batch_handler`](crate::BusBuilder::batch_handler) gets the messages of its type
//! in one call, as `Vec<M>` or as [`Batch<M>`], and can write them with one statement.
//!
//! # When something fails
//!
//! The whole unit is rolled back. What came before the failing message is handled again as a batch, the failing one alone, in
//! a unit of its own with its own attempts, retries and dead letter as without batches, and what came after it as a batch
//! again; when the second try fails too, everything is handled one by one. When a batch handler fails, each of its messages
//! is handled alone. So a handler may run more often than its attempts say: the batch itself is no attempt, and nothing of it
//! was committed. A message leaves the batch, with the later ones of its key, and is handled alone
//!
//! * when it was delivered before and an attempt at it is on record, so that a message that kills the process takes no other
//!   one down with it more than once;
//! * when its id is in the batch already, or another delivery of it is being handled right now;
//! * when a handler runs a statement that could end the transaction (anything but a single SELECT, INSERT, UPDATE, DELETE,
//!   REPLACE, MERGE, VALUES or WITH statement, so DDL and procedure calls too);
//! * when it reads with the opening text of its unit of work, as sagas do: they see what was committed before.
//!
//! # Order
//!
//! Messages of one key are handled in the order of their arrival. A batch handler gets messages together that did not arrive
//! next to each other only when no message of the same key stands between them. Where the transport keeps the order of a key
//! and one of its messages goes back, the later ones in the batch go back too, without counting.
//!
//! # What to know
//!
//! Without a unit of work there is nothing to roll back: batch handlers get their messages together, each message is done or
//! failed by itself. A batch holds its locks until it commits: fewer, larger batches at the same time (`parallelism`) meet
//! fewer deadlocks. A pipeline step that stands before `retry` spans the whole batch; it must not hold over `next` what
//! another message of the batch would wait for.

use std::{fmt, ops::Deref};

use uuid::Uuid;

use crate::{context::Context, headers, headers::Headers, limits};

mod gather;
mod handler;
mod member;
mod plan;
mod runner;
mod seat;
mod together;

pub(crate) use gather::ready;
pub(crate) use handler::TypedBatch;
pub use handler::{InBatch, InVec, IntoBatchHandler};
pub(crate) use runner::{alone, run};
pub(crate) use seat::{Seat, take_part};

/// How many messages are handled in one unit of work, and how long the first one waits for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Messages in one unit of work. 1 turns batches off. Default: 50; at most [`limits::BATCH_MESSAGES_MAX`].
    pub messages_max: usize,
    /// How long a batch that is not full waits for more, in milliseconds. 0, the default, takes what is ready: while all
    /// workers are busy the next batch fills by itself. At most [`limits::BATCH_WAIT_MS_MAX`].
    pub wait_ms_max: u64,
}

impl Default for BatchPolicy {
    fn default() -> Self {
        Self { messages_max: limits::BATCH_MESSAGES, wait_ms_max: 0 }
    }
}

impl BatchPolicy {
    /// Batches of up to `messages_max` messages that wait for nothing.
    #[must_use]
    pub fn of(messages_max: usize) -> Self {
        Self { messages_max, ..Self::default() }
    }
}

/// Messages of one type that are handled in one call, in the order of their arrival; never empty. Derefs to a slice.
pub struct Batch<M>(Vec<Received<M>>);

impl<M> Batch<M> {
    pub(crate) fn new(messages: Vec<Received<M>>) -> Self {
        Self(messages)
    }

    /// The messages alone.
    #[must_use]
    pub fn into_messages(self) -> Vec<M> {
        self.0.into_iter().map(|received| received.message).collect()
    }
}

impl<M> Deref for Batch<M> {
    type Target = [Received<M>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<M> IntoIterator for Batch<M> {
    type Item = Received<M>;
    type IntoIter = std::vec::IntoIter<Received<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, M> IntoIterator for &'a Batch<M> {
    type Item = &'a Received<M>;
    type IntoIter = std::slice::Iter<'a, Received<M>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<M: fmt::Debug> fmt::Debug for Batch<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

/// One message of a [`Batch`], with what is its own. Derefs to the message.
pub struct Received<M> {
    /// The message.
    pub message: M,
    context: Context,
}

impl<M> Received<M> {
    /// The context of this message: what is sent with it names this message as its cause.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The message's id.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.context.message_id()
    }

    /// The headers, with `barid-duplicate: true` when the message was handled before.
    #[must_use]
    pub fn headers(&self) -> Headers {
        self.context.headers()
    }

    /// The second half of the ordering key; `None` when the message is unordered.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.context.incoming().headers.get(headers::KEY)
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.context.attempt()
    }
}

impl<M> Deref for Received<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.message
    }
}

impl<M: fmt::Debug> fmt::Debug for Received<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("id", &self.id()).field("message", &self.message).finish()
    }
}
