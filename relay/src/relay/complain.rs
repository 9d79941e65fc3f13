//! Says in the log what goes wrong, without saying it a hundred thousand times.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::parked::fingerprint;

const PAUSE: Duration = Duration::from_secs(1);
/// Causes of parking that are told apart; any others share a line.
const CAUSES_MAX: usize = 100;

/// At most one line a second of each kind, with the number of those that were left out. Each cause of parking is a kind, because
/// each wants its own remedy.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    retrying: Quiet,
    left_out: Quiet,
    parking: HashMap<String, Quiet>,
}

#[derive(Debug, Default)]
struct Quiet {
    last: Option<Instant>,
    left_out: u64,
}

impl Quiet {
    /// How many were left out before this one, if this one may be said.
    fn may_speak(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + PAUSE) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Complaints {
    pub(super) fn retrying(&mut self, sink: &str, reason: &str, now: Instant) {
        if let Some(left_out) = self.retrying.may_speak(now) {
            tracing::warn!(sink, reason, left_out, "not confirmed; will be sent again");
        }
    }

    pub(super) fn left_out(&mut self, source: &str, now: Instant) {
        if let Some(left_out) = self.left_out.may_speak(now) {
            tracing::info!(
                source,
                left_out,
                "a key waits and has no more room; its later rows stay in the outbox for now"
            );
        }
    }

    pub(super) fn parking(&mut self, by: &str, reason: &str, now: Instant) {
        let mut cause = fingerprint(by, reason);
        if self.parking.len() >= CAUSES_MAX && !self.parking.contains_key(&cause) {
            cause = String::new();
        }
        if let Some(left_out) = self.parking.entry(cause).or_default().may_speak(now) {
            tracing::error!(by, reason, left_out, "cannot be delivered: parked, and its key is held");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_one_line_a_second() {
        let (mut quiet, now) = (Quiet::default(), Instant::now());
        let spoken: Vec<_> = (0..25).filter_map(|at| quiet.may_speak(now + PAUSE * at / 10)).collect();
        assert_eq!(spoken, [0, 9, 9]);
    }
}
