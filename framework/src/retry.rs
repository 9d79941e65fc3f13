//! When a failed message is tried again, and where the attempts are counted.
//!
//! [`RetryPolicy`] is a pure function of the number of attempts. Counting is durable where the unit of work is SQL: a
//! first delivery writes nothing, a delivery that may be a repeat is counted before its handlers run (so that a handler
//! which kills the process cannot loop for ever), and a failed attempt is written after the rollback.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;

use crate::{error::Result, limits, store::backend::IdempotencyKey};

/// How often and how fast a message is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts before the message becomes a dead letter, the first included. Default: 5.
    pub attempts_max: u32,
    /// The pause after the first failed attempt; doubles with each further one. Default: 100 ms.
    pub pause: Duration,
    /// The longest pause. Default: 10 s.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: limits::ATTEMPTS_MAX,
            pause: Duration::from_millis(100),
            pause_max: Duration::from_secs(10),
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
        if attempts >= self.attempts_max {
            return Decision::DeadLetter;
        }
        let doubled = self.pause.saturating_mul(2_u32.saturating_pow(attempts.saturating_sub(1)));
        Decision::Again(doubled.min(self.pause_max).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }

    /// Whether a delivery may be handled after `started` attempts were started before it.
    #[must_use]
    pub fn allows(&self, started: u32) -> bool {
        started < self.attempts_max
    }
}

/// Where the attempts at a message are counted.
#[async_trait]
pub trait AttemptStore: Send + Sync + 'static {
    /// Counts an attempt before it runs and returns the count, this one included.
    async fn started(&self, key: &IdempotencyKey) -> Result<u32>;
    /// Notes that an attempt failed, counting it unless `started` did, and returns the count.
    async fn failed(&self, key: &IdempotencyKey, counted: bool, error: &str) -> Result<u32>;
    /// Takes back a count: the attempt did not happen, or its outcome is unknown.
    async fn take_back(&self, key: &IdempotencyKey) -> Result<()>;
    /// Forgets the message: it was handled or given up.
    async fn forget(&self, key: &IdempotencyKey) -> Result<()>;
}

/// Attempts of a bus whose unit of work has no database. A restart forgets them.
#[derive(Debug, Default)]
pub(crate) struct MemoryAttempts(Mutex<HashMap<IdempotencyKey, u32>>);

/// Messages whose attempts are remembered at the same time.
const REMEMBERED_MAX: usize = 100_000;

impl MemoryAttempts {
    fn count(&self, key: &IdempotencyKey, by: i64) -> u32 {
        // A counter cannot be broken by a panic elsewhere.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED_MAX && !all.contains_key(key) {
            // Forgetting gives some messages more attempts than they should have; growing without bound would end worse.
            all.clear();
        }
        let count = all.entry(key.clone()).or_default();
        *count = u32::try_from((i64::from(*count) + by).max(0)).unwrap_or(u32::MAX);
        *count
    }
}

#[async_trait]
impl AttemptStore for MemoryAttempts {
    async fn started(&self, key: &IdempotencyKey) -> Result<u32> {
        Ok(self.count(key, 1))
    }

    async fn failed(&self, key: &IdempotencyKey, counted: bool, _: &str) -> Result<u32> {
        Ok(self.count(key, i64::from(!counted)))
    }

    async fn take_back(&self, key: &IdempotencyKey) -> Result<()> {
        self.count(key, -1);
        Ok(())
    }

    async fn forget(&self, key: &IdempotencyKey) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_then_end() {
        let policy = RetryPolicy {
            attempts_max: 5,
            pause: Duration::from_millis(100),
            pause_max: Duration::from_millis(300),
        };
        let check =
            |attempts, jitter, expected| assert_eq!(policy.decide(attempts, jitter), expected, "{attempts}");
        check(1, 1.0, Decision::Again(Duration::from_millis(100)));
        check(1, 0.0, Decision::Again(Duration::from_millis(50)));
        check(2, 1.0, Decision::Again(Duration::from_millis(200)));
        check(3, 1.0, Decision::Again(Duration::from_millis(300)));
        check(4, 1.0, Decision::Again(Duration::from_millis(300)));
        check(5, 1.0, Decision::DeadLetter);
        check(u32::MAX, 1.0, Decision::DeadLetter);
    }

    #[tokio::test]
    async fn a_counted_start_is_not_counted_again_when_it_fails() {
        let attempts = MemoryAttempts::default();
        let key = IdempotencyKey { message_id: uuid::Uuid::nil(), scope: "orders".into() };
        assert_eq!(attempts.failed(&key, false, "first").await.unwrap(), 1);
        assert_eq!(attempts.started(&key).await.unwrap(), 2);
        assert_eq!(attempts.failed(&key, true, "second").await.unwrap(), 2);
        attempts.started(&key).await.unwrap();
        attempts.take_back(&key).await.unwrap();
        assert_eq!(attempts.started(&key).await.unwrap(), 3);
    }
}
