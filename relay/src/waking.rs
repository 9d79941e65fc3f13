//! When to look at the outbox again.
//!
//! Polling alone delivers everything: at once after work, then in pauses that grow with the time in which nothing came. A
//! doorbell makes it fast: one in this process, datagrams at [`Listener`], notifications of the database. All of them only ring
//! the same [`Doorbell`]; a ring that is lost costs latency, and one too many costs at most a look, because rings that lead to
//! nothing are answered slower and slower.

use std::time::{Duration, Instant};

use barid::Doorbell;
use tokio::time::sleep;

mod listener;

pub use self::listener::Listener;

/// A pause is this part of the time in which nothing came: an eighth more latency than the quiet time before.
const QUIET_SHARE: u32 = 8;

/// The longest wait between a ring and the look that answers it, once rings have led to nothing for a while.
const RING_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The first such wait; doubles.
const RING_PAUSE_MIN: Duration = Duration::from_millis(1);

/// Decides how long to rest after a look that found nothing.
#[derive(Debug)]
pub(crate) struct Pace {
    min: Duration,
    max: Duration,
    quiet_since: Instant,
    /// Rings in a row that led to nothing.
    fruitless: u32,
}

impl Pace {
    /// Pauses between `min` and `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), quiet_since: Instant::now(), fruitless: 0 }
    }

    /// From now on pauses between `min` and `max`.
    pub(crate) fn between(&mut self, min: Duration, max: Duration) {
        (self.min, self.max) = (min, max.max(min));
    }

    /// A look found something.
    pub(crate) fn found(&mut self) {
        self.quiet_since = Instant::now();
        self.fruitless = 0;
    }

    /// After a look that found nothing: until the next one is due, or the doorbell is rung. Cancel safe.
    pub(crate) async fn rest(&mut self, doorbell: &Doorbell) {
        let (least, most) = self.pauses(Instant::now());
        // Rings in the meantime are answered by the one look after it.
        sleep(least).await;
        tokio::select! {
            () = sleep(most - least) => self.fruitless = 0,
            () = doorbell.rung() => self.fruitless = self.fruitless.saturating_add(1),
        }
    }

    /// How soon a ring is answered, and how long without one.
    fn pauses(&self, now: Instant) -> (Duration, Duration) {
        let quiet = now.saturating_duration_since(self.quiet_since);
        let most = (quiet / QUIET_SHARE).clamp(self.min, self.max);
        let least = match self.fruitless {
            0 => Duration::ZERO,
            rings => RING_PAUSE_MIN.saturating_mul(1 << (rings - 1).min(16)).min(RING_PAUSE_MAX),
        };
        (least.min(most.max(RING_PAUSE_MIN)), most.max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn pace() -> Pace {
        Pace::new(MS, 1_000 * MS)
    }

    #[test]
    fn pauses_grow_with_the_quiet_time_and_end_at_the_longest() {
        let pace = pace();
        for (quiet, pause) in [(0, 1), (8, 1), (40, 5), (800, 100), (8_000, 1_000), (80_000, 1_000)] {
            assert_eq!(
                pace.pauses(pace.quiet_since + quiet * MS),
                (Duration::ZERO, pause * MS),
                "{quiet} ms"
            );
        }
    }

    #[test]
    fn an_idle_minute_has_few_looks() {
        let (pace, mut at, mut looks) = (pace(), Duration::ZERO, 0);
        while at < 60_000 * MS {
            at += pace.pauses(pace.quiet_since + at).1;
            looks += 1;
        }
        assert!(looks < 130, "{looks}");
    }

    #[test]
    fn a_ring_is_answered_at_once_and_a_flood_is_not() {
        let mut pace = Pace::new(10_000 * MS, 10_000 * MS);
        let (mut at, mut looks) = (Duration::ZERO, 0);
        while at < 1_000 * MS {
            // Rung before every look, and never for a row.
            let (least, _) = pace.pauses(pace.quiet_since + at);
            assert!(looks > 0 || least.is_zero());
            at += least;
            pace.fruitless += 1;
            looks += 1;
        }
        assert!((20..40).contains(&looks), "{looks} looks in a second of rings without a row");
        pace.found();
        assert!(pace.pauses(pace.quiet_since).0.is_zero(), "work was found: rings are believed again");
    }

    #[tokio::test]
    async fn a_ring_ends_the_rest() {
        let (bell, mut pace) = (Doorbell::new(), Pace::new(3_600_000 * MS, 3_600_000 * MS));
        bell.ring();
        pace.rest(&bell).await;
        assert_eq!(pace.fruitless, 1);
    }
}
