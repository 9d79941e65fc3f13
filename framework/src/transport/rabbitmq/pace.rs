//! How many unconfirmed rows a broker needs to be as fast as it can be. Pure: the caller says when.
//!
//! Classic queues gain nothing beyond some hundreds; quorum queues amortise their fsyncs over thousands. A larger window costs
//! duplicates after a crash and time in the broker, so the smallest that is fast enough is wanted. The client cannot see what
//! kind of queue it publishes to, so it measures: on a ladder of sizes two neighbours are compared in turns (low, high, high,
//! low), over rows that are sent anyway. The higher one is kept when it confirms clearly more rows a second. What was found is
//! looked at again, ever more rarely.
//!
//! Nothing is measured while the window is not what holds rows back: a source that is slow, or a route with few keys.

use std::time::{Duration, Instant};

/// From one rung of the ladder to the next.
const STEP: usize = 8;
/// What the higher rung must confirm more, in percent, to be worth its size.
const GAIN_PERCENT: u64 = 8;
/// Which rung the turns of a comparison use: true is the higher one. Drift in one direction weighs on both alike.
const TURNS: [bool; 4] = [false, true, true, false];
/// A turn measures so many windows of the higher rung, after one that is not measured, and at least so many rows.
const WINDOWS: usize = 2;
const TURN_ROWS_MIN: usize = 2_000;
/// How long the first finding is believed, and the longest that any is.
const BELIEVED_MIN: Duration = Duration::from_secs(60);
const BELIEVED_MAX: Duration = Duration::from_secs(960);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    ladder: Vec<usize>,
    rung: usize,
    state: State,
    believed: Duration,
}

#[derive(Debug)]
enum State {
    /// Until then the rung is what it is.
    Settled(Option<Instant>),
    Comparing(Comparison),
}

/// Two neighbours of the ladder, the turns that were measured, and the one under way.
#[derive(Debug)]
struct Comparison {
    low: usize,
    turn: usize,
    /// Rows and time, of the lower and of the higher rung.
    measured: [(usize, Duration); 2],
    skipped: usize,
    rows: usize,
    since: Option<Instant>,
    was_full: bool,
}

impl Pace {
    /// Between these numbers of rows; the lower one cannot be above the higher one.
    pub(super) fn new(min: usize, max: usize) -> Self {
        let mut ladder = vec![min.min(max)];
        while let Some(&last) = ladder.last().filter(|last| **last < max) {
            ladder.push(last.saturating_mul(STEP).min(max));
        }
        Self { ladder, rung: 0, state: State::Settled(None), believed: BELIEVED_MIN }
    }

    /// How many rows may be in flight now.
    pub(super) fn window(&self) -> usize {
        match &self.state {
            State::Settled(_) => self.ladder[self.rung],
            State::Comparing(comparison) => self.ladder[comparison.rung()],
        }
    }

    /// The window held a row back.
    pub(super) fn full(&mut self) {
        if let State::Comparing(comparison) = &mut self.state {
            comparison.was_full = true;
        }
    }

    /// So many rows were confirmed just now. Returns the window when another one was found to be right.
    pub(super) fn confirmed(&mut self, rows: usize, now: Instant) -> Option<usize> {
        match &mut self.state {
            State::Settled(until) if self.ladder.len() > 1 && until.is_none_or(|until| now >= until) => {
                // The next higher one first; at the top of the ladder, whether the lower one would do.
                let low = self.rung.min(self.ladder.len() - 2);
                self.state = State::Comparing(Comparison::new(low));
                None
            }
            State::Settled(_) => None,
            State::Comparing(comparison) => {
                comparison.book(rows, self.ladder[comparison.low + 1], now);
                let higher = comparison.verdict()?;
                let low = comparison.low;
                self.decide(low, higher, now)
            }
        }
    }

    /// The connection was lost: what was being measured says nothing.
    pub(super) fn interrupted(&mut self) {
        if let State::Comparing(comparison) = &self.state {
            self.state = State::Comparing(Comparison::new(comparison.low));
        }
    }

    fn decide(&mut self, low: usize, higher: bool, now: Instant) -> Option<usize> {
        let (before, found) = (self.rung, if higher { low + 1 } else { low });
        self.rung = found;
        // Once it moved it may move on in the same direction.
        let next = match found {
            _ if found > before && found + 1 < self.ladder.len() => Some(found),
            _ if found < before && found > 0 => Some(found - 1),
            _ => None,
        };
        self.state = match next {
            Some(low) => State::Comparing(Comparison::new(low)),
            None => State::Settled(Some(now + self.believed)),
        };
        if found == before {
            self.believed = (self.believed * 2).min(BELIEVED_MAX);
            return None;
        }
        self.believed = BELIEVED_MIN;
        Some(self.ladder[found])
    }
}

impl Comparison {
    fn new(low: usize) -> Self {
        let measured = [(0, Duration::ZERO); 2];
        Self { low, turn: 0, measured, skipped: 0, rows: 0, since: None, was_full: false }
    }

    fn rung(&self) -> usize {
        self.low + usize::from(TURNS.get(self.turn).copied().unwrap_or(false))
    }

    fn book(&mut self, rows: usize, high: usize, now: Instant) {
        let Some(since) = self.since else {
            // What is confirmed first was sent under the window before.
            self.skipped += rows;
            if self.skipped >= high {
                (self.since, self.was_full) = (Some(now), false);
            }
            return;
        };
        self.rows += rows;
        if self.rows < (WINDOWS * high).max(TURN_ROWS_MIN) {
            return;
        }
        if self.was_full {
            let (all, time) = &mut self.measured[usize::from(TURNS[self.turn])];
            *all += self.rows;
            *time += now - since;
            self.turn += 1;
        }
        (self.skipped, self.rows, self.since) = (0, 0, None);
    }

    /// Whether the higher rung is worth it, once every turn was measured.
    fn verdict(&self) -> Option<bool> {
        if self.turn < TURNS.len() {
            return None;
        }
        let [low, high] = self.measured.map(|(rows, time)| {
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
            rows as u64 * 1_000_000 / micros
        });
        Some(high * 100 >= low * (100 + GAIN_PERCENT))
    }
}

#[cfg(test)]
mod tests;
