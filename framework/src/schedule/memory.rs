//! A schedule in memory: what is due is sent to the transport, in the order of (due time, id).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Deferred, Due};
use crate::{
    background::Background,
    bus::BusCore,
    clock,
    error::{Error, Result},
    limits,
    transport::OutgoingRow,
};

/// How long after a failure it is sent again.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Timer {
    waiting: Mutex<Waiting>,
    changed: Notify,
    messages_max: usize,
}

#[derive(Default)]
struct Waiting {
    /// By due time and id: the order in which they leave.
    rows: BTreeMap<(Instant, Uuid), (OutgoingRow, u32)>,
    due: HashMap<Uuid, Instant>,
}

impl Waiting {
    fn put(&mut self, id: Uuid, at: Instant, row: OutgoingRow, tries: u32) {
        self.take(id);
        self.due.insert(id, at);
        self.rows.insert((at, id), (row, tries));
    }

    fn take(&mut self, id: Uuid) -> Option<(OutgoingRow, u32)> {
        let at = self.due.remove(&id)?;
        self.rows.remove(&(at, id))
    }
}

impl Timer {
    pub(crate) fn new(messages_max: usize) -> Self {
        Self { waiting: Mutex::default(), changed: Notify::new(), messages_max }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Both maps are changed by calls that cannot panic in between.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it can take `deferred`. Messages that are handled at the same time may overshoot the bound together.
    pub(crate) fn has_room(&self, deferred: &Deferred) -> Result<()> {
        if self.waiting().rows.len() + deferred.scheduled.len() > self.messages_max {
            return Err(Error::new(format!(
                "{} messages are scheduled in memory, which is the most it keeps: raise messages_max, or use SqlSchedule",
                self.messages_max
            )));
        }
        Ok(())
    }

    pub(crate) fn change(&self, Deferred { cancelled, scheduled }: Deferred) {
        let mut waiting = self.waiting();
        for id in cancelled {
            waiting.take(id);
        }
        for scheduled in scheduled {
            waiting.put(scheduled.id, instant(scheduled.due), scheduled.row, 0);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    pub(crate) fn cancel(&self, id: Uuid) -> bool {
        self.waiting().take(id).is_some()
    }

    fn first(&self) -> Option<(Instant, Uuid, OutgoingRow)> {
        self.waiting().rows.first_key_value().map(|((at, id), (row, _))| (*at, *id, row.clone()))
    }

    /// After a failure: again in a moment, for some time.
    fn put_back(&self, bus: &str, id: Uuid, error: &Error) {
        let mut waiting = self.waiting();
        // Cancelled meanwhile.
        let Some((row, tries)) = waiting.take(id) else { return };
        if tries < limits::MEMORY_SCHEDULE_TRIES {
            tracing::warn!(bus, %id, %error, retry_ms = PAUSE.as_millis(), "sending a message that is due");
            waiting.put(id, Instant::now() + PAUSE, row, tries + 1);
        } else {
            tracing::error!(bus, %id, message = row.name, %error, tries, "a message that is due is lost: it could not be sent");
        }
    }
}

#[async_trait]
impl Background for Timer {
    fn name(&self) -> &'static str {
        "schedule in memory"
    }

    async fn run(&self, core: &Arc<BusCore>, stop: &CancellationToken) -> Result<()> {
        tracing::warn!(bus = core.name, "scheduled messages are kept in memory: a restart forgets them");
        while !stop.is_cancelled() {
            let first = self.first();
            let pause = first.as_ref().map(|(at, ..)| at.saturating_duration_since(Instant::now()));
            match (first, pause) {
                (Some((_, id, row)), Some(Duration::ZERO)) => match core.send_all(&[row]).await {
                    // It stays until it was sent: a bus that stops in between sends it when it runs again.
                    Ok(()) => drop(self.waiting().take(id)),
                    Err(error) => self.put_back(&core.name, id, &error),
                },
                (_, pause) => tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(pause.unwrap_or(limits::DEFER_MAX)) => {}
                },
            }
        }
        Ok(())
    }
}

fn instant(due: Due) -> Instant {
    let after = match due {
        Due::In(after) => after,
        // There is no database whose clock could say so.
        Due::At(at) => (at - clock::now()).to_std().unwrap_or(Duration::ZERO),
    };
    let now = Instant::now();
    // Neither overflows in a process that lives for less than the longest deferral.
    now.checked_add(after).unwrap_or(now + limits::DEFER_MAX)
}
