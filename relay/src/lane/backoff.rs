//! How long a row waits before it is sent again: exponential, with full jitter.

use std::time::Duration;

/// Doubles an upper bound with every attempt and draws a delay below it, so that many keys do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    state: u64,
}

impl Backoff {
    /// Delays between `min` and a bound that grows from `2 * min` to `max`; `seed` makes them repeatable.
    #[must_use]
    pub fn new(min: Duration, max: Duration, seed: u64) -> Self {
        Self { min, max: max.max(min), state: seed }
    }

    /// The delay after `attempts` attempts failed.
    pub fn delay(&mut self, attempts: u32) -> Duration {
        let bound = self.min.saturating_mul(1 << attempts.clamp(1, 20)).min(self.max);
        let spread = u64::try_from(bound.saturating_sub(self.min).as_micros()).unwrap_or(u64::MAX - 1);
        self.min + Duration::from_micros(self.random() % (spread + 1))
    }

    /// SplitMix64: enough for jitter.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_never_leave_the_bounds() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut backoff = Backoff::new(min, max, 7);
        for attempts in 1..200 {
            let delay = backoff.delay(attempts);
            assert!(delay >= min && delay <= max, "{attempts}: {delay:?}");
            assert!(delay <= min * (1 << attempts.min(7)), "{attempts}: {delay:?}");
        }
    }
}
