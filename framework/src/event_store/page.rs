//! Which part of a stream, or of all streams, is read, and what was found.

use super::RecordedEvent;
use crate::limits;

/// Which way is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// The oldest first.
    #[default]
    Forward,
    /// The newest first.
    Backward,
}

/// One page: from where, which way, and how many events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    pub(crate) direction: Direction,
    pub(crate) after: Option<u64>,
    pub(crate) max: u32,
}

impl Slice {
    /// From the first event on.
    #[must_use]
    pub fn forward() -> Self {
        Self { direction: Direction::Forward, after: None, max: limits::EVENTS_PAGE }
    }

    /// From the last event back.
    #[must_use]
    pub fn backward() -> Self {
        Self { direction: Direction::Backward, ..Self::forward() }
    }

    /// Begins behind the event of this number (backward: before it): a version in a stream, a position in all streams. It is what
    /// [`Page::next`] says.
    #[must_use]
    pub fn after(mut self, number: u64) -> Self {
        self.after = Some(number);
        self
    }

    /// At most so many events; never more than [`limits::EVENTS_PAGE_MAX`], and one at least. Default:
    /// [`limits::EVENTS_PAGE`].
    #[must_use]
    pub fn max(mut self, events: u32) -> Self {
        self.max = events.clamp(1, limits::EVENTS_PAGE_MAX);
        self
    }
}

/// What one page holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page {
    /// The events, in the direction that was asked for.
    pub events: Vec<RecordedEvent>,
    /// Where the next page begins: what [`Slice::after`] takes. `None` when there was no more.
    pub next: Option<u64>,
}
