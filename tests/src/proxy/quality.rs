//! How bad one direction of a wire is.

use std::time::Duration;

/// What happens to the bytes of one direction. The default is a perfect wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// How much later bytes arrive.
    pub latency: Duration,
    /// And how much later still, at most, at random.
    pub jitter: Duration,
    /// How many bytes pass in a second.
    pub bytes_per_s: Option<u32>,
    /// The largest piece in which bytes arrive.
    pub slice_bytes: Option<usize>,
    /// Nothing arrives any more and nothing is closed: the other side is gone without a word.
    pub black_hole: bool,
    /// How much later the end of the stream arrives than its last byte.
    pub close_after: Duration,
}

impl Quality {
    /// What a long way does.
    #[must_use]
    pub fn latency(latency: Duration, jitter: Duration) -> Self {
        Self { latency, jitter, ..Self::default() }
    }

    /// What a narrow wire does.
    #[must_use]
    pub fn bytes_per_s(bytes: u32) -> Self {
        Self { bytes_per_s: Some(bytes), ..Self::default() }
    }

    /// Pieces of this size, each a packet of its own.
    #[must_use]
    pub fn slices(bytes: usize) -> Self {
        Self { slice_bytes: Some(bytes), ..Self::default() }
    }

    /// See [`Quality::black_hole`].
    #[must_use]
    pub fn black_hole() -> Self {
        Self { black_hole: true, ..Self::default() }
    }

    /// See [`Quality::close_after`].
    #[must_use]
    pub fn slow_close(after: Duration) -> Self {
        Self { close_after: after, ..Self::default() }
    }

    /// How long a piece of this many bytes is under way.
    pub(super) fn delay(&self, bytes: usize, dice: u32) -> Duration {
        let jitter = self.jitter.mul_f64(f64::from(dice) / f64::from(u32::MAX));
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let carried = self.bytes_per_s.map(|rate| Duration::from_secs(1) * bytes / rate.max(1));
        self.latency + jitter + carried.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_add_up() {
        let (second, ms) = (Duration::from_secs(1), Duration::from_millis);
        assert_eq!(Quality::default().delay(1_000_000, 7), Duration::ZERO);
        assert_eq!(Quality::bytes_per_s(500).delay(1_000, 0), 2 * second);
        let long = Quality { bytes_per_s: Some(1_000), ..Quality::latency(ms(500), ms(100)) };
        assert_eq!(long.delay(1_000, u32::MAX), second + ms(600));
    }
}
