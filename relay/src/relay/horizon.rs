//! When to look for a transaction that has been open for too long, and what to say about it.
//!
//! While its snapshot lives, no row that was deleted since leaves its page, and the outbox is all deleted rows: it grows, and so does
//! the work of everybody who reads it. Only a person can end it. No I/O.

use std::time::{Duration, Instant};

use crate::source::OldTransaction;

/// The shortest and the longest pause between two looks.
const PAUSE_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is known of the oldest transaction.
#[derive(Debug)]
pub(super) struct Horizon {
    /// How old is too old.
    limit: Duration,
    next: Instant,
    said: Option<Instant>,
}

impl Horizon {
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, next: now + pause(limit), said: None }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether it is time to look; the next time is a pause from now.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        let due = now >= self.next;
        if due {
            self.next = now + pause(self.limit);
        }
        due
    }

    /// Takes what was seen. It is returned when somebody should hear of it: at once, and again each time that it has become older
    /// by as much.
    pub(super) fn seen(&mut self, oldest: Option<OldTransaction>, now: Instant) -> Option<OldTransaction> {
        let Some(old) = oldest.filter(|old| old.age >= self.limit) else {
            self.said = None;
            return None;
        };
        if self.said.is_some_and(|said| now < said + self.limit) {
            return None;
        }
        self.said = Some(now);
        Some(old)
    }
}

fn pause(limit: Duration) -> Duration {
    (limit / 2).clamp(PAUSE_BOUNDS.0, PAUSE_BOUNDS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_is_said_once_until_it_is_twice_as_old() {
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let mut horizon = Horizon::new(900 * second, now);
        let old = |age: u32| Some(OldTransaction { age: age * second, who: "somebody".to_owned() });
        let later = now + PAUSE_BOUNDS.1;
        assert!(!horizon.due(now) && horizon.due(later) && !horizon.due(later));
        for (at, age, said) in [(0, 899, false), (60, 959, true), (120, 1_019, false), (960, 1_859, true)] {
            assert_eq!(horizon.seen(old(age), now + at * second).is_some(), said, "{age} s old");
        }
        assert!(horizon.seen(None, now + 1_000 * second).is_none());
        assert!(horizon.seen(old(900), now + 1_001 * second).is_some(), "another one");
    }
}
