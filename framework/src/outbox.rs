//! The outbox: messages that commit with the business rows and leave when they did.
//!
//! Inside a handler it is automatic: what is sent is collected, and inserted by one statement as the last write before
//! COMMIT. [`Outbox::enqueue`] does the same for code outside a handler, in the caller's own transaction. The relay
//! publishes the rows; a [`Doorbell`] tells it that there is something to read.

use std::sync::Arc;

use crate::{
    codec::Codec, destination::Destination, doorbell::Doorbell, error::Result, message::Outgoing,
    pipeline::outgoing::Desk, store::backend::Backend, subscriptions::Subscriptions, transport::OutgoingRow,
};

/// The outbox of a bus, in the database of its SQL unit of work. Needs `commit_with_transaction`.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SqlOutbox {
    doorbells: Vec<Doorbell>,
}

impl SqlOutbox {
    /// An outbox that a relay polls.
    pub fn new() -> Self {
        Self::default()
    }

    /// Rings `doorbell` too after each commit that wrote to the outbox: for a relay in this process, or with
    /// [`Doorbell::to`] for one on this machine. `[bus.NAME] doorbell` adds one more.
    pub fn doorbell(mut self, doorbell: Doorbell) -> Self {
        self.doorbells.push(doorbell);
        self
    }

    /// After a commit.
    pub(crate) fn ring(&self) {
        self.doorbells.iter().for_each(Doorbell::ring);
    }
}

/// Writes to the outbox outside a handler, in a transaction of the caller.
///
/// ```no_run
/// # use barid::{Message, Outbox, Outgoing};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.placed")]
/// # struct OrderPlaced { order_id: i64 }
/// # async fn doc(pool: sqlx::SqlitePool) -> barid::Result<()> {
/// let outbox = Outbox::new("web");
/// let mut connection = pool.acquire().await?;
/// let mut tx = sqlx::Connection::begin(&mut *connection).await?;
/// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
/// outbox.enqueue::<sqlx::Sqlite>(&mut tx, Outgoing::new(OrderPlaced { order_id: 7 }).key(7)).await?;
/// tx.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Outbox {
    desk: Desk,
    doorbell: Option<Doorbell>,
}

impl Outbox {
    /// An outbox whose messages name `source` as their sender.
    pub fn new(source: impl Into<String>) -> Self {
        Self { desk: Desk::new(source.into()), doorbell: None }
    }

    /// Where messages named `name` go.
    pub fn route(mut self, name: &str, to: Destination) -> Self {
        self.desk.routes.add(name, to);
        self
    }

    /// Where messages go whose name matches `pattern`; see [`BusBuilder::route_pattern`](crate::BusBuilder::route_pattern).
    pub fn route_pattern(mut self, pattern: &str, to: Destination) -> Self {
        self.desk.routes.add_pattern(pattern, to);
        self
    }

    /// How topics are called; see [`BusBuilder::topic_names`](crate::BusBuilder::topic_names).
    pub fn topic_names(mut self, convention: impl Fn(&str, &str) -> String + Send + Sync + 'static) -> Self {
        self.desk.routes.set_topics(convention);
        self
    }

    /// Who keeps the subscriptions of what is published: one row is inserted for each subscribed queue. Default: the transport.
    pub fn subscriptions(mut self, subscriptions: Subscriptions) -> Self {
        self.desk.subscriptions = subscriptions;
        self
    }

    /// Encodes bodies with `codec` instead of JSON.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.desk.codec = Arc::new(codec);
        self
    }

    /// The doorbell that [`Outbox::ring`] rings.
    pub fn doorbell(mut self, doorbell: Doorbell) -> Self {
        self.doorbell = Some(doorbell);
        self
    }

    /// Inserts one message: for where it says itself or its route says, or for the subscribers of an event. It leaves when the
    /// caller's transaction commits, and never when it rolls back.
    ///
    /// Call it last before the commit: order per key follows the order of the inserts, which serialises on the
    /// aggregate's row only after that row was written.
    ///
    /// # Errors
    /// When the message cannot be encoded, its destination is no name, or the insert fails. Roll back then.
    pub async fn enqueue<DB: Backend>(
        &self,
        transaction: &mut DB::Connection,
        message: impl Into<Outgoing> + Send,
    ) -> Result<()> {
        self.enqueue_all::<DB>(transaction, [message]).await
    }

    /// Inserts several messages with one statement, in their order.
    ///
    /// # Errors
    /// As [`Outbox::enqueue`]; none was inserted then.
    pub async fn enqueue_all<DB: Backend>(
        &self,
        transaction: &mut DB::Connection,
        messages: impl IntoIterator<Item = impl Into<Outgoing>> + Send,
    ) -> Result<()> {
        let rows = self.rows(messages.into_iter().map(Into::into).collect()).await?;
        if rows.is_empty() {
            return Ok(());
        }
        DB::insert_outbox(transaction, &rows)
            .await
            .map_err(|error| crate::Error::from(error).context("writing the outbox"))
    }

    /// The rows of messages, in their order.
    pub(crate) async fn rows(&self, messages: Vec<Outgoing>) -> Result<Vec<OutgoingRow>> {
        let mut rows = Vec::with_capacity(messages.len());
        for mut message in messages {
            if message.to.is_none() {
                message.to = self.desk.routes.find(&message.name)?.cloned();
            }
            rows.extend(self.desk.rows(message).await?);
        }
        Ok(rows)
    }

    /// Rings the doorbell, if there is one. Call it after the commit.
    pub fn ring(&self) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
    }
}
