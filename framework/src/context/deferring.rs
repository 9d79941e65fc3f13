//! Sending later from a handler. Like sending, everything here only stages.

use std::{sync::PoisonError, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Context;
use crate::{
    bus::BusCore,
    destination::Destination,
    error::{Error, Result},
    headers, limits,
    message::Outgoing,
    schedule::Due,
};

impl Context {
    /// Sends a message later: `after` the commit, by the database's clock. It goes where [`Outgoing::to`] or its route says, or
    /// to this bus's own queue. Only stages: a message that fails defers nothing. Returns the id that cancels it, which is the
    /// deferred message's own.
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
        self.stage_due(Due::In(after), message.into())
    }

    /// Sends a message at a time, by the database's clock: a `DateTime` of chrono or a `SystemTime`. A time that has passed is
    /// due at once. Otherwise as [`Context::defer`].
    ///
    /// # Errors
    /// As [`Context::defer`]; `at` must be before the year 10000.
    pub fn schedule(&self, at: impl Into<DateTime<Utc>>, message: impl Into<Outgoing>) -> Result<Uuid> {
        self.stage_due(Due::At(at.into()), message.into())
    }

    /// Handles the message that is being handled once more, `after` the commit: a copy of it comes to this bus's own queue,
    /// with a new id (which is returned, and cancels it) and the header `barid-original-id`.
    ///
    /// # Errors
    /// As [`Context::defer`].
    pub fn defer_this(&self, after: Duration) -> Result<Uuid> {
        let copy = copy(self)?;
        self.stage_due(Due::In(after), copy)
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

    fn stage_due(&self, due: Due, message: Outgoing) -> Result<Uuid> {
        let message = self.0.core.deferred(due, message)?;
        let id = message.id;
        self.stage(message)?;
        Ok(id)
    }

    pub(crate) fn take_cancelled(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.0.cancelled.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl BusCore {
    /// A message on its way into the schedule. One that says nothing else and has no route comes to this bus's own queue.
    pub(crate) fn deferred(&self, due: Due, mut message: Outgoing) -> Result<Outgoing> {
        self.schedule()?;
        message.due = Some(due.check()?);
        if message.to.is_none() && self.routes.owner(&message.name).is_err() {
            message.to = Some(Destination::queue(self.inbox.queue.clone())?);
        }
        Ok(message)
    }
}

/// The message being handled as a new one, to this bus's own queue.
fn copy(cx: &Context) -> Result<Outgoing> {
    let incoming = cx.incoming();
    let mut copy = Outgoing::raw(&incoming.name, incoming.body.clone());
    copy.headers = incoming.headers.clone();
    for column in [headers::ID, headers::TYPE] {
        copy.headers.remove(column);
    }
    if let Some(aggregate) = copy.headers.remove(headers::AGGREGATE) {
        copy.aggregate = aggregate;
    }
    copy.key = copy.headers.remove(headers::KEY);
    copy.headers.set(headers::ORIGINAL_ID, incoming.id.to_string());
    copy.to = Some(Destination::queue(cx.0.core.inbox.queue.clone())?);
    Ok(copy)
}
