//! A publisher that always has more rows, against brokers whose speed follows from the window.

use super::*;

/// Confirms a second that a broker gives for a window.
type Broker = fn(usize) -> f64;

/// Some thousands unconfirmed rows are needed for full speed.
const QUORUM: Broker = |window| 40_000.0 * window as f64 / (window as f64 + 700.0);
/// As fast with 256 as with any more.
const CLASSIC: Broker = |window| 12_000.0 * window as f64 / (window as f64 + 10.0);

/// A publisher under test, its clock, and a seed for the noise.
struct Run {
    pace: Pace,
    now: Instant,
    seed: u64,
    /// How much the speed varies, in percent.
    noise: u64,
}

impl Run {
    fn new(min: usize, max: usize, seed: u64, noise: u64) -> Self {
        Self { pace: Pace::new(min, max), now: Instant::now(), seed, noise }
    }

    fn percent(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let spread = (self.seed >> 33) % (2 * self.noise + 1);
        (100.0 + spread as f64 - self.noise as f64) / 100.0
    }

    /// Confirms so many rows, in the pieces in which confirms come. Returns the window afterwards.
    fn rows(&mut self, rows: usize, broker: Broker) -> usize {
        let mut left = rows;
        while left > 0 {
            self.pace.full();
            let piece = (self.pace.window() / 4).clamp(1, left);
            let rate = broker(self.pace.window()) * self.percent();
            self.now += Duration::from_secs_f64(piece as f64 / rate);
            // What it says is looked at by the test as a whole.
            let _ = self.pace.confirmed(piece, self.now);
            left -= piece;
        }
        match self.pace.state {
            State::Settled(_) => self.pace.window(),
            State::Comparing(_) => self.pace.ladder[self.pace.rung],
        }
    }
}

#[test]
fn a_quorum_queue_gets_thousands_and_a_classic_one_stays_small() {
    for seed in 0..200 {
        let quorum = Run::new(256, 4_000, seed, 10).rows(200_000, QUORUM);
        assert!((2_000..=4_000).contains(&quorum), "seed {seed}: {quorum} on a quorum queue");
        let classic = Run::new(256, 4_000, seed, 10).rows(200_000, CLASSIC);
        assert_eq!(classic, 256, "seed {seed}: on a classic queue");
    }
}

#[test]
fn what_was_found_is_looked_at_again_and_given_back() {
    let mut run = Run::new(256, 4_000, 7, 5);
    assert!(run.rows(200_000, QUORUM) >= 2_000);
    // The queue was replaced by a classic one; nobody tells us.
    assert_eq!(run.rows(3_000_000, CLASSIC), 256);
    assert!(run.rows(8_000_000, QUORUM) >= 2_000);
}

#[test]
fn a_source_that_is_slow_changes_nothing() {
    let mut pace = Pace::new(256, 4_000);
    let start = Instant::now();
    for ms in 0..100_000 {
        assert_eq!(pace.confirmed(100, start + Duration::from_millis(ms)), None);
    }
    assert_eq!(pace.window(), 256, "the window was never full");
}

#[test]
fn a_lost_connection_is_not_measured() {
    let mut run = Run::new(256, 4_000, 3, 0);
    for _ in 0..40 {
        run.rows(4_000, CLASSIC);
        run.pace.interrupted();
        run.now += Duration::from_secs(5);
    }
    assert_eq!(run.rows(200_000, QUORUM), 4_000);
}

#[test]
fn the_bounds_hold() {
    assert_eq!(Pace::new(256, 4_000).ladder, [256, 2_048, 4_000]);
    assert_eq!(Pace::new(256, 256).ladder, [256]);
    assert_eq!(Pace::new(256, 2).ladder, [2]);
    assert_eq!(Pace::new(1, 10).ladder, [1, 8, 10]);
    assert_eq!(Run::new(500, 500, 1, 0).rows(100_000, QUORUM), 500);
}
