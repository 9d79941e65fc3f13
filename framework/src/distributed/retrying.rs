//! Trying a whole transaction again, when it is certain that nothing of it stays.

use std::{future::Future, num::NonZeroU32, time::Duration};

use crate::{limits, pipeline::retry::jitter};

/// How often a transaction is tried, and the pauses in between.
///
/// Each try is a transaction of its own, with an id of its own; what makes them one for the application is its idempotency key.
/// An outcome that is not known must not be tried again: the first one may have committed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransactionRetry {
    /// Tries, the first included. Default: 3.
    pub attempts_max: NonZeroU32,
    /// The pause after the first try. Default: 1 s.
    pub pause: Duration,
    /// How many times longer each pause is than the one before. Default: 2.
    pub factor: f64,
    /// The longest pause. Default: 30 s.
    pub pause_max: Duration,
}

impl Default for TransactionRetry {
    fn default() -> Self {
        Self {
            attempts_max: limits::DISTRIBUTED_ATTEMPTS_MAX,
            pause: limits::DISTRIBUTED_RETRY_PAUSE,
            factor: 2.0,
            pause_max: limits::DISTRIBUTED_RETRY_PAUSE_MAX,
        }
    }
}

impl TransactionRetry {
    /// Runs `transaction`, which gets the number of the try from 1, until it succeeds, may not be tried again, or the tries are used up.
    ///
    /// `may_retry` is true only for errors after which nothing of the transaction stays and another try can go better.
    ///
    /// # Errors
    /// The error of the last try, unchanged.
    pub async fn run<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        may_retry: impl Fn(&E) -> bool,
        mut transaction: impl FnMut(u32) -> F,
    ) -> Result<T, E> {
        let mut attempt = 1;
        loop {
            match transaction(attempt).await {
                Err(error) if attempt < self.attempts_max.get() && may_retry(&error) => {
                    tokio::time::sleep(self.pause_after(attempt, jitter())).await;
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// The pause after this many tries. `jitter` in 0..1 keeps those apart that failed together: between half of it and all of it.
    #[must_use]
    pub fn pause_after(&self, attempts: u32, jitter: f64) -> Duration {
        let exponent = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = self.factor.max(1.0).powi(exponent);
        let pause = Duration::try_from_secs_f64(self.pause.as_secs_f64() * factor).unwrap_or(Duration::MAX);
        pause.min(self.pause_max).mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let retry = TransactionRetry::default();
        let pauses: Vec<_> = (1..=7).map(|attempts| retry.pause_after(attempts, 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry.pause_after(2, 0.0), Duration::from_secs(1));
        assert_eq!(retry.pause_after(u32::MAX, 1.0), retry.pause_max);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_left_nothing_is_tried_again() {
        for (error, tries) in [("aborted", 3), ("in doubt", 1)] {
            let mut seen = Vec::new();
            let ended = TransactionRetry::default()
                .run(
                    |error| *error == "aborted",
                    |attempt| {
                        seen.push(attempt);
                        async move { Err::<(), _>(error) }
                    },
                )
                .await;
            assert_eq!((ended, seen.len()), (Err(error), tries));
        }
        let mut tries = 0;
        let retry = TransactionRetry::default();
        let run = retry.run(
            |_: &&str| true,
            |attempt| {
                tries = attempt;
                async move { if attempt == 2 { Ok(attempt) } else { Err("aborted") } }
            },
        );
        assert_eq!((run.await, tries), (Ok(2), 2));
    }
}
