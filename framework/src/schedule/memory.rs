//! A schedule in memory: what is due is sent to the transport, in the order of (due time, id).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
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
    /// When it was made, by both clocks: due times are counted from here.
    began: (Instant, DateTime<Utc>),
}

/// A due time, in microseconds after the timer was made; negative when it had passed before.
type Micros = i64;

#[derive(Default)]
struct Waiting {
    /// By due time and id: the order in which they leave.
    rows: BTreeMap<(Micros, Uuid), (OutgoingRow, u32)>,
    due: HashMap<Uuid, Micros>,
}

impl Waiting {
    fn put(&mut self, id: Uuid, at: Micros, row: OutgoingRow, tries: u32) {
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
        let began = (Instant::now(), clock::now());
        Self { waiting: Mutex::default(), changed: Notify::new(), messages_max, began }
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
            waiting.put(scheduled.id, self.micros(scheduled.due), scheduled.row, 0);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    pub(crate) fn cancel(&self, id: Uuid) -> bool {
        self.waiting().take(id).is_some()
    }

    /// The first message, with its due time and how long until then.
    fn first(&self) -> Option<(Micros, Duration, Uuid, OutgoingRow)> {
        let waiting = self.waiting();
        let ((at, id), (row, _)) = waiting.rows.first_key_value()?;
        let pause = u64::try_from(at.saturating_sub(self.micros(Due::In(Duration::ZERO)))).unwrap_or(0);
        Some((*at, Duration::from_micros(pause), *id, row.clone()))
    }

    fn micros(&self, due: Due) -> Micros {
        let (began, began_at) = self.began;
        match due {
            Due::In(after) => Micros::try_from((began.elapsed() + after).as_micros()).unwrap_or(Micros::MAX),
            // There is no database whose clock could say so.
            Due::At(at) => {
                let distant = if at < began_at { Micros::MIN } else { Micros::MAX };
                (at - began_at).num_microseconds().unwrap_or(distant)
            }
        }
    }

    /// Forgets a message, unless its id was scheduled again while it was being sent.
    fn sent(&self, at: Micros, id: Uuid) {
        let mut waiting = self.waiting();
        if waiting.due.get(&id) == Some(&at) {
            waiting.take(id);
        }
    }

    /// After a failure: again in a moment, for some time.
    fn put_back(&self, bus: &str, id: Uuid, error: &Error) {
        let mut waiting = self.waiting();
        // Cancelled meanwhile.
        let Some((row, tries)) = waiting.take(id) else { return };
        if tries < limits::MEMORY_SCHEDULE_TRIES {
            tracing::warn!(bus, %id, %error, retry_ms = PAUSE.as_millis(), "sending a message that is due");
            waiting.put(id, self.micros(Due::In(PAUSE)), row, tries + 1);
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
            let pause = match self.first() {
                None => limits::DEFER_MAX,
                Some((at, Duration::ZERO, id, row)) => {
                    match core.send_all(&[row]).await {
                        // It stays until it was sent: a bus that stops in between sends it when it runs again.
                        Ok(()) => self.sent(at, id),
                        Err(error) => self.put_back(&core.name, id, &error),
                    }
                    continue;
                }
                Some((_, pause, ..)) => pause,
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        Ok(())
    }
}
