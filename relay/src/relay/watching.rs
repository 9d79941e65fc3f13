//! When to look whether an operator released parked rows, and what that means.
//!
//! A session knows the held keys from its start. What an operator does afterwards, it sees by a counter in the database; then
//! it ends, and the next one puts back what nobody holds and reads from the beginning. No I/O.

use std::time::{Duration, Instant};

use crate::source::Released;

/// The pause between two looks. An operator waits so long; and a source with parked rows gets this one query more.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of the operators' changes.
#[derive(Debug)]
pub(super) struct Watch {
    times: i64,
    /// When to look next; never while nothing is parked, because then there is nothing to release.
    next: Option<Instant>,
}

impl Watch {
    /// From what was seen before the held keys were loaded.
    pub(super) fn new(released: Released) -> Self {
        Self { times: released.times, next: released.parked.then(|| Instant::now() + PAUSE) }
    }

    /// Something is being parked.
    pub(super) fn parked(&mut self, now: Instant) {
        self.next.get_or_insert(now + PAUSE);
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether it is time to look; the next time is a pause from now.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|next| now >= next);
        if due {
            self.next = Some(now + PAUSE);
        }
        due
    }

    /// Takes what was seen; whether somebody released something.
    pub(super) fn released(&mut self, seen: Released, parks_under_way: bool) -> bool {
        if !seen.parked && !parks_under_way {
            self.next = None;
        }
        seen.times != self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_while_something_is_parked() {
        let mut watch = Watch::new(Released { times: 3, parked: false });
        let now = Instant::now();
        assert!(watch.next().is_none() && !watch.due(now + PAUSE * 9));
        watch.parked(now);
        assert!(!watch.due(now) && watch.due(now + PAUSE));
        assert!(!watch.due(now + PAUSE), "one look a pause");
        // What is being parked is not in the table yet.
        assert!(!watch.released(Released { times: 3, parked: false }, true) && watch.next().is_some());
        assert!(!watch.released(Released { times: 3, parked: false }, false) && watch.next().is_none());
        assert!(watch.released(Released { times: 4, parked: true }, false));
    }
}
