//! Messages that leave later: deferred by a duration, or scheduled at a time, and cancelled by their id.
//!
//! With [`SqlSchedule`] a message that is scheduled becomes a row of the table `schedule` with everything that the outgoing
//! pipeline decided: destination, key, headers, bytes. In a handler the row joins the closing text of the unit of work, so it
//! costs no round trip and a handler that fails schedules nothing. When it is due, a task beside the worker moves it into the
//! outbox, in one transaction. It needs no types, so any bus on the database moves the rows of all, and it moves them in the
//! order of (due time, id), one instance at a time: messages of one key leave in the order in which they are due. The
//! broker needs no plug-in.
//!
//! Due times are compared by the database's clock. A schedule survives a restart; what became due meanwhile leaves at once.
//! [`MemorySchedule`] is the same for buses without a database, and a restart forgets it.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    background::Background,
    bus::BusCore,
    context::Context,
    error::{Error, Result},
    limits,
    message::Outgoing,
    store::schedule::cancel,
    transport::OutgoingRow,
};

mod alarm;
mod memory;
mod mover;
mod outside;

use alarm::Alarm;
use memory::Timer;
pub use outside::Schedule;

pub(crate) use crate::store::schedule::{Due, ScheduleStore, Scheduled};

/// The schedule of a bus, in the database of its SQL unit of work. Needs `commit_with_transaction` and an outbox.
#[derive(Clone, Debug)]
#[must_use]
pub struct SqlSchedule {
    pub(crate) poll: Duration,
}

impl SqlSchedule {
    /// A schedule that is looked at once a second when nothing is due earlier.
    pub fn new() -> Self {
        Self { poll: limits::SCHEDULE_POLL }
    }

    /// The longest pause between two looks. What this bus schedules itself leaves when it is due, whatever the pause; what
    /// others schedule may leave so much later. Default: 1 s. The configuration's `schedule_poll_ms` wins.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }
}

impl Default for SqlSchedule {
    fn default() -> Self {
        Self::new()
    }
}

/// A schedule in the memory of the process, by its own clock, for tests and tools: **a restart forgets it**. What is due is
/// sent to the transport directly.
#[derive(Clone, Debug)]
#[must_use]
pub struct MemorySchedule {
    messages_max: usize,
}

impl MemorySchedule {
    /// A schedule of up to 100,000 messages.
    pub fn new() -> Self {
        Self { messages_max: limits::MEMORY_SCHEDULE_MAX }
    }

    /// How many messages it keeps; scheduling more is an error. Default: 100,000.
    pub fn messages_max(mut self, messages_max: NonZeroUsize) -> Self {
        self.messages_max = messages_max.get();
        self
    }
}

impl Default for MemorySchedule {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a bus keeps what it schedules: what [`BusBuilder::schedule`](crate::BusBuilder::schedule) takes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Scheduling {
    /// In the database of the unit of work.
    Sql(SqlSchedule),
    /// In memory.
    Memory(MemorySchedule),
}

impl From<SqlSchedule> for Scheduling {
    fn from(schedule: SqlSchedule) -> Self {
        Self::Sql(schedule)
    }
}

impl From<MemorySchedule> for Scheduling {
    fn from(schedule: MemorySchedule) -> Self {
        Self::Memory(schedule)
    }
}

/// What one message or one call changes in the schedule: first it cancels, then it schedules.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    pub(crate) cancelled: Vec<Uuid>,
    pub(crate) scheduled: Vec<Scheduled>,
}

impl Deferred {
    fn is_empty(&self) -> bool {
        self.cancelled.is_empty() && self.scheduled.is_empty()
    }
}

impl Scheduled {
    /// A message of its own: its id cancels it.
    pub(crate) fn new(row: OutgoingRow, due: Due) -> Self {
        Self { id: row.id, due, row }
    }
}

/// The schedule of a running bus.
pub(crate) enum Scheduler {
    Sql { store: Arc<dyn ScheduleStore>, alarm: Arc<Alarm>, poll: Duration },
    Memory(Arc<Timer>),
}

impl Scheduler {
    pub(crate) fn sql(store: Arc<dyn ScheduleStore>, schedule: &SqlSchedule) -> Self {
        Self::Sql { store, alarm: Arc::default(), poll: schedule.poll }
    }

    pub(crate) fn memory(schedule: &MemorySchedule) -> Self {
        Self::Memory(Arc::new(Timer::new(schedule.messages_max)))
    }

    /// What sends the messages that are due.
    pub(crate) fn background(&self) -> Arc<dyn Background> {
        match self {
            Self::Sql { store, alarm, poll } => {
                Arc::new(mover::Mover { store: Arc::clone(store), alarm: Arc::clone(alarm), poll: *poll })
            }
            Self::Memory(timer) => Arc::clone(timer) as Arc<dyn Background>,
        }
    }

    /// Makes it part of the unit of work of `context`; [`Scheduler::committed`] follows the commit.
    pub(crate) fn stage(&self, context: &Context, deferred: &Deferred) -> Result<()> {
        match self {
            Self::Sql { store, .. } => {
                deferred.cancelled.iter().for_each(|id| context.write(cancel(*id)));
                deferred.scheduled.iter().for_each(|scheduled| context.write(store.put(scheduled)));
                Ok(())
            }
            Self::Memory(timer) => timer.has_room(deferred),
        }
    }

    /// What follows the commit of a transaction that has the statements of `deferred`.
    pub(crate) fn committed(&self, deferred: Deferred) {
        match self {
            Self::Sql { alarm, .. } => {
                deferred.scheduled.iter().for_each(|scheduled| alarm.set(scheduled.due))
            }
            Self::Memory(timer) => timer.change(deferred),
        }
    }

    /// Schedules one row, in a transaction of its own.
    pub(crate) async fn apply(&self, scheduled: Scheduled) -> Result<()> {
        let deferred = Deferred { cancelled: Vec::new(), scheduled: vec![scheduled] };
        match self {
            Self::Sql { store, .. } => {
                for scheduled in &deferred.scheduled {
                    let put = store.run(&store.put(scheduled)).await;
                    put.map_err(|error| error.context("scheduling the message"))?;
                }
            }
            Self::Memory(timer) => timer.has_room(&deferred)?,
        }
        self.committed(deferred);
        Ok(())
    }

    /// Cancels one, in a transaction of its own, and says whether it was still there.
    pub(crate) async fn cancel(&self, id: Uuid) -> Result<bool> {
        match self {
            Self::Sql { store, .. } => {
                let gone = store.run(&cancel(id)).await;
                Ok(gone.map_err(|error| error.context("cancelling a scheduled message"))? > 0)
            }
            Self::Memory(timer) => Ok(timer.cancel(id)),
        }
    }
}

/// [`Scheduler::stage`], where there may be nothing to stage and no schedule.
pub(crate) fn stage(core: &BusCore, context: &Context, deferred: &Deferred) -> Result<()> {
    if deferred.is_empty() { Ok(()) } else { core.schedule()?.stage(context, deferred) }
}

impl BusCore {
    /// The schedule.
    pub(crate) fn schedule(&self) -> Result<&Scheduler> {
        self.schedule.as_ref().ok_or_else(|| {
            Error::permanent(format!(
                "bus {:?} has no schedule, so nothing can be deferred: call .schedule(SqlSchedule::new()) on its builder",
                self.name
            ))
        })
    }

    /// A message on its way into the schedule. It goes to one place: one that says nothing else and has no route comes to this
    /// bus's own queue, if it has one.
    pub(crate) fn deferred(&self, due: Due, mut message: Outgoing) -> Result<Outgoing> {
        let comes_back = message.to.is_none() && !self.settings.send_only;
        if comes_back && self.routes.find(&message.name)?.is_none() {
            message.to = Some(self.own_queue()?);
        }
        self.due(due, self.addressed(message)?)
    }

    /// The same for a message that has everything but a due time.
    pub(crate) fn due(&self, due: Due, mut message: Outgoing) -> Result<Outgoing> {
        self.schedule()?;
        message.due = Some(due.check()?);
        Ok(message)
    }
}
