//! Where a bus keeps what it schedules.

use std::time::Duration;

use super::{BusBuilder, problems::Problems};
use crate::{
    schedule::{Scheduler, Scheduling},
    unit_of_work::Capabilities,
};

impl BusBuilder {
    /// Handlers may defer messages, schedule and cancel them: in the database of the unit of work with
    /// [`SqlSchedule`](crate::SqlSchedule), in memory with [`MemorySchedule`](crate::MemorySchedule). Default: neither.
    pub fn schedule(mut self, schedule: impl Into<Scheduling>) -> Self {
        self.schedule = Some(schedule.into());
        self
    }

    /// Whether the schedule has rows in the transaction of the unit of work.
    pub(super) fn schedule_is_sql(&self) -> bool {
        matches!(self.schedule, Some(Scheduling::Sql(_)))
    }

    /// That there is an outbox for what is due, and a pause that is one.
    pub(super) fn check_schedule(&mut self, poll_ms: Option<u64>, problems: &mut Problems) {
        if self.schedule_is_sql() && self.outbox.is_none() {
            problems.add(
                "BRD030",
                "it has a schedule, but no outbox: what is due leaves through the outbox, in one transaction with its removal",
                "call .outbox(SqlOutbox::new()), or keep the schedule in memory with .schedule(MemorySchedule::new())",
            );
        }
        let Some(Scheduling::Sql(schedule)) = &mut self.schedule else { return };
        if let Some(poll_ms) = poll_ms {
            schedule.poll = Duration::from_millis(poll_ms);
        }
        if schedule.poll.is_zero() {
            problems.add(
                "BRD019",
                "schedule_poll_ms is 0: the schedule would be looked at without a pause",
                "raise it, or leave it out for its default of 1000",
            );
        }
    }
}

/// The schedule that was asked for. A store is there whenever the checks found no problem.
pub(super) fn scheduler(
    schedule: Option<&Scheduling>,
    capabilities: Option<&Capabilities>,
) -> Option<Scheduler> {
    match schedule? {
        Scheduling::Sql(schedule) => Some(Scheduler::sql(capabilities?.schedule.clone()?, schedule)),
        Scheduling::Memory(schedule) => Some(Scheduler::memory(schedule)),
    }
}
