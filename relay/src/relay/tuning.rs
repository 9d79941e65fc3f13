//! What can be changed while a relay works: bounds and times that are looked at anew each time.
//!
//! Everything else is fixed when a relay is built, because something rests on it: rows are in flight under it, other relays were told
//! of it, connections were opened with it.

use std::{sync::Arc, time::Duration};

use barid::doorbell::Doorbell;
use tokio::sync::watch;

use super::Settings;

/// The part of [`Settings`] that can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) batch_rows: usize,
    pub(super) poll_min: Duration,
    pub(super) idle_poll: Duration,
    pub(super) delete_rows_max: usize,
    pub(super) delete_wait: Duration,
    pub(super) drain: Duration,
}

impl Live {
    /// Bounds of zero would stop a relay without a word: they count as one.
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            batch_rows: settings.batch_rows.max(1),
            poll_min: settings.poll_min,
            idle_poll: settings.idle_poll,
            delete_rows_max: settings.delete_rows_max.max(1),
            delete_wait: settings.delete_wait,
            drain: settings.drain,
        }
    }
}

/// Changes a relay while it works. Clones change the same one.
#[derive(Clone, Debug)]
pub struct Tuner {
    live: Arc<watch::Sender<Live>>,
    /// Ends a pause that was meant to last longer.
    doorbell: Doorbell,
}

impl Tuner {
    pub(super) fn new(settings: &Settings, doorbell: Doorbell) -> Self {
        Self { live: Arc::new(watch::Sender::new(Live::of(settings))), doorbell }
    }

    /// Takes `batch_rows`, `poll_min`, `idle_poll`, `delete_rows_max`, `delete_wait` and `drain` over; the others stay as they are. A
    /// pause between two looks at the outbox ends.
    pub fn tune(&self, settings: &Settings) {
        self.live.send_replace(Live::of(settings));
        self.doorbell.ring();
    }

    pub(super) fn now(&self) -> Live {
        *self.live.borrow()
    }
}
