//! Sending later from a handler. Like sending, everything here only stages.

use std::{sync::PoisonError, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Context;
use crate::{
    error::{Error, Result},
    limits,
    message::Outgoing,
    schedule::Due,
};

impl Context {
    /// Sends a message later: `after` the commit, by the database's clock. It goes where [`Outgoing::to`] or its route says, or
    /// to this bus's own queue: to one place. (To publish an event later, defer a message to this bus and publish in its handler:
    /// the subscribers are those of then.) Only stages: a message that fails defers nothing. Returns the id that cancels it,
    /// which is the deferred message's own.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use barid::{Context, Message, Result};
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "orders.remind")]
    /// # struct Remind { order_id: i64 }
    /// # #[derive(serde::Serialize, serde::Deserialize, Message)]
    /// # #[message(name = "orders.place")]
    /// # struct PlaceOrder { order_id: i64 }
    /// async fn place_order(cmd: PlaceOrder, cx: Context) -> Result<()> {
    ///     cx.defer(Duration::from_secs(3600), Remind { order_id: cmd.order_id })?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// When the bus has no schedule, `after` is more than a hundred years, the bus forbids sending, too much was sent, or after
    /// the handlers returned.
    pub fn defer(&self, after: Duration, message: impl Into<Outgoing>) -> Result<Uuid> {
        self.stage_due(self.0.core.deferred(Due::In(after), message.into())?)
    }

    /// Sends a message at a time, by the database's clock: a `DateTime` of chrono or a `SystemTime`. A time that has passed is
    /// due at once. Otherwise as [`Context::defer`].
    ///
    /// # Errors
    /// As [`Context::defer`]; `at` must be before the year 10000.
    pub fn schedule(&self, at: impl Into<DateTime<Utc>>, message: impl Into<Outgoing>) -> Result<Uuid> {
        self.stage_due(self.0.core.deferred(Due::At(at.into()), message.into())?)
    }

    /// Handles the message that is being handled once more, `after` the commit: a copy of it comes to this bus's own queue,
    /// with a new id (which is returned, and cancels it) and the header `barid-original-id`.
    ///
    /// # Errors
    /// As [`Context::defer`].
    pub fn defer_this(&self, after: Duration) -> Result<Uuid> {
        let own = self.0.core.own_queue()?;
        self.stage_due(self.0.core.due(Due::In(after), Outgoing::copy_of(self.incoming(), own))?)
    }

    /// Cancels a message that was deferred or scheduled, by the id that was returned then. Only stages: a message that fails
    /// cancels nothing. Nothing happens when there is no such message; one that was due may have left.
    ///
    /// # Errors
    /// When the bus has no schedule, too much was cancelled, or after the handlers returned.
    pub fn cancel(&self, id: Uuid) -> Result<()> {
        self.0.core.schedule()?;
        // What this message itself deferred is not in the database yet.
        self.with_staged(|staged| staged.retain(|message| message.due.is_none() || message.id != id))?;
        let mut cancelled = self.0.cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        if cancelled.len() >= limits::STAGED_MESSAGES_MAX {
            return Err(Error::permanent(format!(
                "one message may cancel {} others: split the work into several messages",
                limits::STAGED_MESSAGES_MAX
            )));
        }
        cancelled.push(id);
        Ok(())
    }

    fn stage_due(&self, message: Outgoing) -> Result<Uuid> {
        let id = message.id;
        self.stage(message)?;
        Ok(id)
    }

    pub(crate) fn take_cancelled(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.0.cancelled.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
