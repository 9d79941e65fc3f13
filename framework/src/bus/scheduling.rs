//! Scheduling with a bus, outside its handlers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Bus;
use crate::{
    error::Result,
    message::Outgoing,
    schedule::{Due, Scheduled},
};

impl Bus {
    /// Sends a message later: `after` now, by the database's clock. It goes where [`Outgoing::to`] or its route says, or to this
    /// bus's own queue. Returns the id that cancels it, which is the message's own, when it is written. The bus need not
    /// run; it leaves while this bus or another one with the same database does. In a handler, use
    /// [`Context::defer`](crate::Context::defer): this writes at once, whatever becomes of the handler.
    ///
    /// # Errors
    /// When the bus has no schedule, `after` is more than a hundred years, the message cannot be encoded, or the database
    /// fails. After a lost answer it may be scheduled all the same; doing it again with the same [`Outgoing::id`] replaces it.
    pub async fn defer(&self, after: Duration, message: impl Into<Outgoing> + Send) -> Result<Uuid> {
        self.put(Due::In(after), message.into()).await
    }

    /// Sends a message at a time, by the database's clock: a `DateTime` of chrono or a `SystemTime`. A time that has passed is
    /// due at once. Otherwise as [`Bus::defer`].
    ///
    /// # Errors
    /// As [`Bus::defer`]; `at` must be before the year 10000.
    pub async fn schedule(
        &self,
        at: impl Into<DateTime<Utc>> + Send,
        message: impl Into<Outgoing> + Send,
    ) -> Result<Uuid> {
        self.put(Due::At(at.into()), message.into()).await
    }

    /// Cancels a message that was deferred or scheduled, by the id that was returned then. Returns whether it was still there:
    /// one that was due may have left.
    ///
    /// # Errors
    /// When the bus has no schedule, or the database fails.
    pub async fn cancel(&self, id: Uuid) -> Result<bool> {
        self.0.schedule()?.cancel(id).await
    }

    async fn put(&self, due: Due, message: Outgoing) -> Result<Uuid> {
        let core = &self.0;
        let message = core.deferred(due, message)?;
        let id = message.id;
        // A user's step that ends the pipeline before `route` swallows the message, on purpose.
        for row in core.rows(message, None).await? {
            core.schedule()?.apply(Scheduled::new(row, due)).await?;
        }
        Ok(id)
    }
}
