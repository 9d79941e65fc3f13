//! Times in buckets that never change: counting one allocates nothing and keeps nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper ends in milliseconds: from one round trip to a broker up to an outage of an hour.
const ENDS_MS: [u64; 18] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000,
    3_600_000,
];

/// How many observations were how long.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Each up to its end and above the one before; the last is what is beyond all.
    buckets: [AtomicU64; ENDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = ENDS_MS.partition_point(|end| end * 1_000 < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// How many were at most as long as each end in seconds, and all of them; and their sum in seconds.
    #[must_use]
    pub fn cumulative(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let mut all = 0;
        let mut up_to = |bucket: &AtomicU64| {
            all += bucket.load(Relaxed);
            all
        };
        let ends = ENDS_MS.iter().zip(&self.buckets);
        let ends = ends.map(|(end, bucket)| (seconds(end * 1_000), up_to(bucket))).collect();
        let all = up_to(&self.buckets[ENDS_MS.len()]);
        (ends, all, seconds(self.sum_us.load(Relaxed)))
    }
}

#[allow(clippy::cast_precision_loss)] // exact for 285 years
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_that_it_ends_in_and_in_all_above() {
        let histogram = Histogram::default();
        for us in [0, 1_000, 1_001, 7_000, 4_000_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let (ends, all, sum) = histogram.cumulative();
        let up_to = |end: f64| ends.iter().find(|(at, _)| *at == end).unwrap().1;
        assert_eq!([up_to(0.001), up_to(0.002), up_to(0.005), up_to(0.01), up_to(3600.0)], [2, 3, 3, 4, 4]);
        assert_eq!((all, sum), (5, 4000.009001));
    }
}
