//! Scheduling outside a handler, in a transaction of the caller.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Due, Scheduled};
use crate::{
    codec::Codec,
    destination::Destination,
    error::{Error, Result},
    message::Outgoing,
    pipeline::outgoing::Desk,
    store::{Backend, schedule},
};

/// Schedules messages outside a handler, in a transaction of the caller, as [`Outbox`](crate::Outbox) sends them. Any bus with
/// a [`SqlSchedule`](crate::SqlSchedule) on the same database sees to it that they leave.
///
/// ```no_run
/// # use std::time::Duration;
/// # use barid::{Message, Schedule};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.remind")]
/// # struct Remind { order_id: i64 }
/// # async fn doc(pool: sqlx::SqlitePool) -> barid::Result<()> {
/// let schedule = Schedule::new("web").route("orders.remind", "queue:orders".parse()?);
/// let mut connection = pool.acquire().await?;
/// let mut tx = sqlx::Connection::begin(&mut *connection).await?;
/// sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
/// let in_a_day = Duration::from_secs(86_400);
/// let id = schedule.defer::<sqlx::Sqlite>(&mut tx, in_a_day, Remind { order_id: 7 }).await?;
/// tx.commit().await?;
/// # drop(id); Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Schedule {
    desk: Desk,
}

impl Schedule {
    /// A schedule whose messages name `source` as their sender.
    pub fn new(source: impl Into<String>) -> Self {
        Self { desk: Desk::new(source.into()) }
    }

    /// Where messages named `name` go. One without a route goes where it says itself, or to the topic of its aggregate.
    pub fn route(mut self, name: &str, to: Destination) -> Self {
        self.desk.routes.add(name, to);
        self
    }

    /// Encodes bodies with `codec` instead of JSON.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.desk.codec = Arc::new(codec);
        self
    }

    /// Lets a message leave `after` it was written here, by the database's clock, if the caller's transaction commits.
    /// Returns the id that cancels it, which is the message's.
    ///
    /// # Errors
    /// When the message cannot be encoded, its destination is no name, `after` is more than a hundred years, or the insert
    /// fails. Roll back then.
    pub async fn defer<DB: Backend>(
        &self,
        transaction: &mut DB::Connection,
        after: Duration,
        message: impl Into<Outgoing> + Send,
    ) -> Result<Uuid> {
        self.put::<DB>(transaction, Due::In(after), message.into()).await
    }

    /// Lets a message leave when the database's clock says `at`: a `DateTime` of chrono or a `SystemTime`. A time that has
    /// passed is due at once.
    ///
    /// # Errors
    /// As [`Schedule::defer`]; `at` must be before the year 10000.
    pub async fn schedule<DB: Backend>(
        &self,
        transaction: &mut DB::Connection,
        at: impl Into<DateTime<Utc>> + Send,
        message: impl Into<Outgoing> + Send,
    ) -> Result<Uuid> {
        self.put::<DB>(transaction, Due::At(at.into()), message.into()).await
    }

    /// Cancels a message if the caller's transaction commits. Returns whether it was still there: one that was due may have
    /// left.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn cancel<DB: Backend>(&self, transaction: &mut DB::Connection, id: Uuid) -> Result<bool> {
        let gone = DB::run(transaction, &schedule::cancel(id)).await;
        Ok(gone.map_err(|error| Error::from(error).context("cancelling a scheduled message"))? > 0)
    }

    async fn put<DB: Backend>(
        &self,
        transaction: &mut DB::Connection,
        due: Due,
        mut message: Outgoing,
    ) -> Result<Uuid> {
        let due = due.check()?;
        let id = message.id;
        if message.to.is_none() {
            message.to = self.desk.routes.find(&message.name)?.cloned();
        }
        let mut rows = self.desk.rows(message).await?;
        let (Some(row), true) = (rows.pop(), rows.is_empty()) else {
            return Err(Error::permanent(
                "a message that is scheduled goes to one place, this event to several topics: name one with .to(..)",
            ));
        };
        DB::run(transaction, &schedule::put::<DB>(&Scheduled::new(row, due)))
            .await
            .map_err(|error| Error::from(error).context("scheduling the message"))?;
        Ok(id)
    }
}
