//! How many messages a second a worker takes: a token bucket, kept as the one moment at which it will be full again.
//!
//! The worker asks [`Bucket::ready_at`] before it receives and tells [`Bucket::take`] each delivery. No clock of its own.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

/// At most so many messages a second, after a burst.
///
/// It bounds the messages that one running bus takes from its transport, retries included. Each instance counts for itself:
/// three instances with 10 a second take 30 together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

impl RateLimit {
    /// `per_second` messages a second, one at a time. More than a billion is as good as none and counts as a billion.
    #[must_use]
    pub fn per_second(per_second: NonZeroU32) -> Self {
        let most = NonZeroU32::new(1_000_000_000).unwrap_or(NonZeroU32::MAX);
        Self { per_second: per_second.min(most), burst: NonZeroU32::MIN }
    }

    /// So many may be taken at once after a quiet time, the first included. Default: 1.
    #[must_use]
    pub fn burst(mut self, burst: NonZeroU32) -> Self {
        self.burst = burst;
        self
    }

    /// The time that one message costs.
    fn interval(self) -> Duration {
        Duration::from_nanos(1_000_000_000 / u64::from(self.per_second.get()))
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    limit: RateLimit,
    /// When all that was taken is paid for.
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, full_at: now }
    }

    /// The earliest moment at which a message may be taken; in the past when that is now.
    pub(super) fn ready_at(&self, now: Instant) -> Instant {
        let credit = self.limit.interval().saturating_mul(self.limit.burst.get() - 1);
        self.full_at.checked_sub(credit).unwrap_or(now)
    }

    /// One message was taken.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.limit.interval();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(per_second: u32, burst: u32, now: Instant) -> Bucket {
        let limit = RateLimit::per_second(NonZeroU32::new(per_second).unwrap());
        Bucket::new(limit.burst(NonZeroU32::new(burst).unwrap()), now)
    }

    /// When each of `count` messages is taken, in milliseconds, by somebody who always has one at hand.
    fn taken(mut bucket: Bucket, count: usize, began: Instant) -> Vec<u128> {
        let mut now = began;
        let mut take = || {
            now = now.max(bucket.ready_at(now));
            bucket.take(now);
            (now - began).as_millis()
        };
        (0..count).map(|_| take()).collect()
    }

    #[test]
    fn messages_are_spread_after_the_burst() {
        for (per_second, burst, expected) in [
            (10, 1, [0, 100, 200, 300, 400]),
            (10, 3, [0, 0, 0, 100, 200]),
            (1, 4, [0, 0, 0, 0, 1_000]),
            (1_000, 1, [0, 1, 2, 3, 4]),
        ] {
            let began = Instant::now();
            let times = taken(bucket(per_second, burst, began), 5, began);
            assert_eq!(times, expected, "{per_second} a second, burst {burst}");
        }
    }

    #[test]
    fn a_quiet_time_pays_for_one_burst_and_no_more() {
        let began = Instant::now();
        let bucket = bucket(10, 3, began);
        assert_eq!(taken(bucket, 5, began + Duration::from_secs(60)), [0, 0, 0, 100, 200]);
    }

    proptest! {
        /// In any stretch of time there are no more than the burst and what the rate gives in that time.
        #[test]
        fn no_stretch_of_time_has_too_many(
            per_second in 1_u32..500, burst in 1_u32..20, gaps in prop::collection::vec(0_u64..50, 1..80)
        ) {
            let mut now = Instant::now();
            let mut bucket = bucket(per_second, burst, now);
            let mut taken: Vec<Instant> = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                now = now.max(bucket.ready_at(now));
                bucket.take(now);
                taken.push(now);
            }
            for (at, from) in taken.iter().enumerate() {
                for (count, to) in (1_u32..).zip(&taken[at..]) {
                    let allowed = f64::from(burst) + (*to - *from).as_secs_f64() * f64::from(per_second) + 0.001;
                    prop_assert!(f64::from(count) <= allowed, "{count} > {allowed}");
                }
            }
        }
    }
}
