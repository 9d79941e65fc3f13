//! When a failed message is tried again, and where the attempts are counted.
//!
//! [`RetryPolicy`] is a pure function of the number of attempts. Counting is durable where the unit of work is SQL: a
//! first delivery writes nothing, a delivery that may be a repeat is counted before its handlers run (so that a handler
//! which kills the process cannot loop for ever), and a failed attempt is written after the rollback. A process that dies in
//! the handlers of a first delivery leaves no count; such a message has one attempt more.
//!
//! What counts: an error or a panic of a handler, a commit that failed, a send after the commit that failed. What does not:
//! another delivery of the same message being handled right now, a commit whose outcome is unknown, and
//! [`Error::later`](crate::Error::later).
//!
//! How a pause is kept: the SQL queue makes the row due later, RabbitMQ moves the message to a queue whose messages go back
//! when their time is up, Kafka keeps it in the consumer's memory with its key (its offset is not committed meanwhile), the
//! memory transport keeps it in a timer. None of them holds a place in the prefetch window meanwhile. Where messages of a key
//! are kept in order (SQL queue, Kafka), the later ones of its key wait and no others.

use std::time::Duration;

use crate::limits;

mod attempts;
mod fail_fast;

pub use attempts::{AttemptStore, MemoryAttempts};
pub(crate) use fail_fast::FailFast;

/// How often and how fast a message is tried: first at once, then with pauses that double, then it becomes a dead letter.
///
/// The defaults make 10 attempts: a second one at once, which is enough for a deadlock or a lost connection, and eight more
/// after pauses of 0.25, 0.5, 1, 2, 4, 8, 16 and 30 seconds. Each pause is shortened by up to half, at random, so that
/// messages that failed together do not come back together: a message is given up after 30 to 62 seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts before the message becomes a dead letter, the first included. Default: 10.
    pub attempts_max: u32,
    /// Attempts that follow one another without a pause, the first included. 1 pauses after the first one already.
    /// Default: 2.
    pub immediate_max: u32,
    /// The first pause; doubles with each further one. Default: 250 ms.
    pub pause: Duration,
    /// The longest pause. Default: 30 s.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: limits::ATTEMPTS_MAX,
            immediate_max: limits::IMMEDIATE_ATTEMPTS_MAX,
            pause: limits::RETRY_PAUSE,
            pause_max: limits::RETRY_PAUSE_MAX,
        }
    }
}

/// What to do with a message after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Deliver again after the pause.
    Again(Duration),
    /// Give up.
    DeadLetter,
}

impl RetryPolicy {
    /// What follows after `attempts` attempts failed. `jitter` in 0..1 spreads the pauses of messages that failed together
    /// over the upper half of the pause.
    #[must_use]
    pub fn decide(&self, attempts: u32, jitter: f64) -> Decision {
        if !self.allows(attempts) {
            return Decision::DeadLetter;
        }
        match attempts.checked_sub(self.immediate_max.max(1)) {
            None => Decision::Again(Duration::ZERO),
            Some(pauses) => {
                let doubled = self.pause.saturating_mul(2_u32.saturating_pow(pauses));
                let half = doubled.min(self.pause_max) / 2;
                Decision::Again(half + half.mul_f64(jitter.clamp(0.0, 1.0)))
            }
        }
    }

    /// Whether a delivery may be handled after `started` attempts were started before it.
    #[must_use]
    pub fn allows(&self, started: u32) -> bool {
        started < self.attempts_max
    }
}

/// `text`, cut at `bytes_max` bytes with a note that it was.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}... ({} bytes in all)", &text[..text.floor_char_boundary(bytes_max)], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Decision {
        Decision::Again(Duration::from_millis(millis))
    }

    fn check(policy: &RetryPolicy, attempts: u32, jitter: f64, expected: Decision) {
        assert_eq!(policy.decide(attempts, jitter), expected, "after {attempts} of {policy:?}");
    }

    #[test]
    fn first_at_once_then_with_doubling_pauses_up_to_the_longest_and_then_never() {
        let policy = RetryPolicy {
            attempts_max: 8,
            immediate_max: 3,
            pause: Duration::from_millis(100),
            pause_max: Duration::from_millis(300),
        };
        check(&policy, 1, 1.0, ms(0));
        check(&policy, 2, 1.0, ms(0));
        check(&policy, 3, 1.0, ms(100));
        check(&policy, 3, 0.0, ms(50));
        check(&policy, 3, 7.0, ms(100));
        check(&policy, 4, 1.0, ms(200));
        check(&policy, 5, 1.0, ms(300));
        check(&policy, 7, 1.0, ms(300));
        check(&policy, 7, 0.0, ms(150));
        check(&policy, 8, 1.0, Decision::DeadLetter);
        check(&policy, u32::MAX, 1.0, Decision::DeadLetter);
    }

    #[test]
    fn edges() {
        let policy = |attempts_max, immediate_max| RetryPolicy {
            attempts_max,
            immediate_max,
            pause: Duration::from_millis(100),
            pause_max: Duration::MAX,
        };
        check(&policy(1, 1), 1, 1.0, Decision::DeadLetter);
        check(&policy(1, 9), 1, 1.0, Decision::DeadLetter);
        check(&policy(3, 9), 2, 1.0, ms(0));
        check(&policy(3, 0), 1, 1.0, ms(100));
        assert!(matches!(policy(u32::MAX, 1).decide(u32::MAX - 1, 1.0), Decision::Again(_)));
    }

    #[test]
    fn the_documented_total_of_the_defaults() {
        let policy = RetryPolicy::default();
        let total = |jitter| -> Duration {
            (1..policy.attempts_max)
                .map(|attempts| match policy.decide(attempts, jitter) {
                    Decision::Again(pause) => pause,
                    Decision::DeadLetter => panic!("given up after {attempts}"),
                })
                .sum()
        };
        assert_eq!((total(0.0).as_secs(), total(1.0).as_secs(), policy.attempts_max), (30, 61, 10));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("äöü", 3), "ä... (6 bytes in all)");
    }
}
