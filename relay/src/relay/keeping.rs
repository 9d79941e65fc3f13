//! When to look for rows that have been in the archive for long enough, and from where on.
//!
//! What is too old is at the beginning of the archive. It is removed step by step, each a bounded number of rows, and the next
//! step begins where the last one ended: nobody ever reads the table. Only the owner of the source does it. No I/O.

use std::time::{Duration, Instant};

use crate::archive::{After, Expired};

/// The pause between two steps when there may be more: the rows that are published meanwhile go first.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// The shortest and the longest pause when there is nothing more.
const PAUSE_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How far the archive of a source is free of what is too old.
#[derive(Debug)]
pub(super) struct Keeping {
    /// For how long rows are kept; none when nothing is archived.
    keep: Option<Duration>,
    /// Up to here nothing is left to remove.
    after: i64,
    /// When to look next; none while a step is under way.
    next: Option<Instant>,
}

impl Keeping {
    pub(super) fn new(after: After, now: Instant) -> Self {
        let keep = match after {
            After::Delete => None,
            After::Archive { keep } => Some(keep),
        };
        Self { keep, after: 0, next: keep.map(|_| now) }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// For how long rows are kept and from where on to look, when it is time to.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Duration, i64)> {
        self.next.take_if(|next| now >= *next)?;
        Some((self.keep?, self.after))
    }

    /// Takes in how far a step came.
    pub(super) fn went(&mut self, expired: Expired, now: Instant) {
        self.after = expired.after;
        let pause = self.keep.unwrap_or_default() / 10;
        let pause = if expired.more { STEP_PAUSE } else { pause.clamp(PAUSE_BOUNDS.0, PAUSE_BOUNDS.1) };
        self.next = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_one_another_until_nothing_more_is_too_old() {
        let (now, keep) = (Instant::now(), Duration::from_secs(100));
        let mut keeping = Keeping::new(After::Archive { keep }, now);
        assert_eq!(keeping.due(now), Some((keep, 0)));
        assert!(keeping.due(now + keep).is_none() && keeping.next().is_none(), "one step at a time");
        keeping.went(Expired { removed: 1_000, after: 1_000, more: true }, now);
        assert!(keeping.due(now).is_none(), "the others go first");
        assert_eq!(keeping.due(now + STEP_PAUSE), Some((keep, 1_000)));
        keeping.went(Expired { removed: 7, after: 1_007, more: false }, now);
        assert_eq!(keeping.next(), Some(now + keep / 10));
        assert_eq!(keeping.due(now + keep / 10), Some((keep, 1_007)));
    }

    #[test]
    fn where_nothing_is_archived_nobody_looks() {
        let now = Instant::now();
        let mut keeping = Keeping::new(After::Delete, now);
        assert!(keeping.next().is_none() && keeping.due(now + PAUSE_BOUNDS.1).is_none());
    }
}
