//! Moves what is due into the outbox, as long as the bus runs.
//!
//! Asks the database when the next message is due, sleeps until then, moves a batch, and begins again. Several instances may
//! do this on one database: one of them moves at a time, the others look again.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{ScheduleStore, alarm::Alarm};
use crate::{background::Background, bus::BusCore, error::Result, limits, store::schedule::Moved};

pub(crate) struct Mover {
    pub(crate) store: Arc<dyn ScheduleStore>,
    pub(crate) alarm: Arc<Alarm>,
    /// The longest pause between two looks.
    pub(crate) poll: Duration,
}

#[async_trait]
impl Background for Mover {
    fn name(&self) -> &'static str {
        "schedule"
    }

    async fn run(&self, core: &Arc<BusCore>, stop: &CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            let pause = match self.store.next_due().await? {
                Some(Duration::ZERO) => match self.move_due(core).await? {
                    None => continue,
                    Some(pause) => pause,
                },
                Some(after) => after.min(self.poll),
                None => self.poll,
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.alarm.wait(pause) => {}
            }
        }
        Ok(())
    }
}

impl Mover {
    /// Moves a batch, and says how long to wait before the next look; `None` when there may be another batch.
    async fn move_due(&self, core: &BusCore) -> Result<Option<Duration>> {
        match self.store.move_due(limits::SCHEDULE_BATCH_ROWS).await? {
            // Another instance moves, or what is due is being cancelled or replaced right now.
            Moved::Busy | Moved::Rows(0) => Ok(Some(limits::SCHEDULE_BUSY_PAUSE)),
            Moved::Rows(rows) => {
                tracing::debug!(bus = core.name, rows, "scheduled messages are due");
                core.ring();
                let full = rows >= u64::from(limits::SCHEDULE_BATCH_ROWS);
                Ok((!full).then_some(limits::SCHEDULE_POLL_MIN))
            }
        }
    }
}
