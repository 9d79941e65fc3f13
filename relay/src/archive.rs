//! What was published, kept for a while.
//!
//! A source with `after = "archive"` does not delete a row that was confirmed: it moves it into `relay_archive`, in one
//! transaction that carries the epoch of its owner. A row is in one place at any time: in the outbox, parked, or here. What has
//! been here for long enough is removed by the owner of the source, from the beginning, step by step.

use std::time::Duration;

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
