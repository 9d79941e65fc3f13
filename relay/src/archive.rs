//! What was published, kept for a while.
//!
//! A source with `after = "archive"` does not delete a row that was confirmed: it moves it into `relay_archive`, in one
//! transaction that carries the epoch of its owner. A row is in one place at any time: in the outbox, parked, or here. What has
//! been here for long enough is removed by the owner of the source, from the beginning, step by step.
//!
//! An operator replays messages ([`ArchiveStore::replay`]): they go back into the outbox as new rows at its end, each with its
//! id, and are archived again when they have been published. That needs no lease, because it only adds rows behind all others, as
//! an application does: first deliveries keep their order (promise O), and what is replayed of a key follows in the order in
//! which it was published. Consumers know the ids, and handle again only what they have forgotten.

use std::time::Duration;

use async_trait::async_trait;

use crate::source::SourceError;

pub mod json;
mod selection;

pub use self::selection::{Selection, When, when};

/// The archived messages of one source.
#[async_trait]
pub trait ArchiveStore: Send + Sync {
    /// Now, by the database's clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// When the database fails.
    async fn now_ms(&self) -> Result<i64, SourceError>;

    /// What is selected, without touching it.
    ///
    /// # Errors
    /// When the database fails.
    async fn count(&self, selection: &Selection) -> Result<Archived, SourceError>;

    /// Moves selected messages back into the outbox, in their order: a bounded number of those behind the position `after` and not
    /// behind `last`, in one transaction together with its row in `relay_audit`. None when there are none.
    ///
    /// # Errors
    /// When the database fails. Unless the error says so, nothing was moved.
    async fn replay(&self, replay: &Replay, after: i64, last: i64) -> Result<Option<Moved>, SourceError>;
}

/// What an operator sends again.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Which messages.
    pub selection: Selection,
    /// Who does it, as far as the program knows.
    pub who: String,
    /// Why.
    pub reason: String,
}

/// What is selected. Times are milliseconds since 1970, by the database's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// How many messages.
    pub messages: i64,
    /// How many keys they have.
    pub keys: i64,
    /// The position of the first one; 0 without any, as below.
    pub first: i64,
    /// The position of the last one.
    pub last: i64,
    /// When the first one was published.
    pub from_ms: i64,
    /// When the last one was published.
    pub until_ms: i64,
}

/// What one transaction of a replay moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// How many messages.
    pub messages: i64,
    /// The position of the last one: the next transaction begins behind it.
    pub after: i64,
}

/// What was replayed, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// In which source.
    pub source: String,
    /// Which messages, in words.
    pub selection: String,
    /// What there was.
    pub found: Archived,
    /// How many of them were moved; none when they were only counted.
    pub messages: Option<i64>,
}

/// What becomes of a row that was confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// It is deleted.
    #[default]
    Delete,
    /// It is moved into `relay_archive`.
    Archive {
        /// For how long it is kept there, by the database's clock.
        keep: Duration,
    },
}

/// What one step of the removal did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Rows that were removed.
    pub removed: u64,
    /// Up to this position nothing is left to remove: the next step begins behind it.
    pub after: i64,
    /// Whether there may be more to remove now.
    pub more: bool,
}

impl Expired {
    /// From a step behind `after`: where it ended, unless at the end of the archive, and the first row that it left there.
    #[must_use]
    pub fn of(after: i64, end: Option<i64>, left: Option<i64>, removed: u64) -> Self {
        let over = left.map_or(end.unwrap_or(after), |left| left - 1);
        Self { removed, after: over, more: left.is_none() && end.is_some() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_goes_on_where_the_last_one_ended_and_stops_at_what_is_kept() {
        let of = |end, left| {
            let Expired { after, more, .. } = Expired::of(10, end, left, 0);
            (after, more)
        };
        assert_eq!(of(Some(1_010), None), (1_010, true), "all of a full step is gone");
        assert_eq!(of(Some(1_010), Some(500)), (499, false), "500 is kept");
        assert_eq!(of(None, Some(11)), (10, false));
        assert_eq!(of(None, None), (10, false), "nothing is there");
    }
}
