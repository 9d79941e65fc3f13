//! Streams of events from a handler: appended in the transaction of its message.

use std::fmt;

use super::{Context, UnitGuard};
use crate::{
    error::Result,
    event_store::{Appended, EventStoreError, Expected, NewEvent, Page, Slice, Snapshot, StreamName},
    headers::{self, Headers},
    store::{backend::Backend, events::Batch},
};

impl Context {
    /// The streams of events in the database of the unit of work. What is appended is there when the message's transaction commits,
    /// together with business rows and outgoing messages, and not at all when it rolls back.
    ///
    /// Events carry the correlation and the trace of the message, and its id as their cause.
    ///
    /// ```
    /// # use barid::{Context, Message, Result, event_store::{Expected, StreamName}};
    /// # use sqlx::Sqlite;
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "orders.place")]
    /// # struct PlaceOrder { order_id: u64 }
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "orders.placed")]
    /// # struct OrderPlaced { order_id: u64 }
    /// async fn place(cmd: PlaceOrder, cx: Context) -> Result<()> {
    ///     let order = StreamName::of("order", cmd.order_id)?;
    ///     let mut events = cx.events::<Sqlite>().await?;
    ///     events.append(&order, Expected::NoStream, [OrderPlaced { order_id: cmd.order_id }]).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`Context::unit_of_work`]: what is returned holds the connection, like a guard of it.
    pub async fn events<DB: Backend>(&self) -> Result<UnitEvents<DB>> {
        let guard = self.guard::<DB>()?;
        let incoming = self.incoming();
        let mut defaults = Headers::new();
        for name in [headers::CORRELATION_ID, headers::TRACEPARENT, headers::TRACESTATE] {
            if let Some(value) = incoming.headers.get(name) {
                defaults.set(name, value);
            }
        }
        defaults.set_default(headers::CORRELATION_ID, || incoming.id.to_string());
        defaults.set(headers::CAUSATION_ID, incoming.id.to_string());
        defaults.set(headers::SOURCE, self.bus());
        Ok(UnitEvents { guard, context: self.clone(), defaults })
    }
}

/// Streams of events in a unit of work. See [`Context::events`].
pub struct UnitEvents<DB: Backend> {
    guard: UnitGuard<DB>,
    context: Context,
    defaults: Headers,
}

impl<DB: Backend> UnitEvents<DB> {
    /// Appends events to a stream, all or none. Others who append to it wait until the unit of work ends.
    ///
    /// # Errors
    /// [`EventStoreError`]. After [`EventStoreError::Conflict`] nothing was written: return the error, and the message is handled
    /// again, with what the other has written. After an error of the database the unit of work cannot commit.
    pub async fn append<E: Into<NewEvent>>(
        &mut self,
        stream: &StreamName,
        expected: Expected,
        events: impl IntoIterator<Item = E>,
    ) -> Result<Appended, EventStoreError> {
        let codec = self.context.0.core.codec.as_ref();
        let batch = Batch::encode(stream, expected, events, codec, &self.defaults)?;
        self.guard.append_events(&batch).await
    }

    /// One page of a stream, with what this unit of work has appended to it.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn read(&mut self, stream: &StreamName, slice: Slice) -> Result<Page, EventStoreError> {
        self.guard.read_events(stream, slice).await
    }

    /// Keeps a snapshot with the unit of work, unless a newer one of the same format is there.
    ///
    /// # Errors
    /// [`EventStoreError::SnapshotAhead`] and [`EventStoreError::TooLarge`]; when the database failed.
    pub async fn save_snapshot(
        &mut self,
        stream: &StreamName,
        snapshot: &Snapshot,
    ) -> Result<(), EventStoreError> {
        self.guard.save_snapshot(stream, snapshot).await
    }

    /// The newest snapshot of a format that fits the stream.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn load_snapshot(
        &mut self,
        stream: &StreamName,
        format: u32,
    ) -> Result<Option<Snapshot>, EventStoreError> {
        self.guard.load_snapshot(stream, format).await
    }
}

impl<DB: Backend> fmt::Debug for UnitEvents<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitEvents").field("database", &DB::DISPLAY).finish_non_exhaustive()
    }
}
