//! What a bus does with messages that fail.

use super::{BusBuilder, problems::Problems};
use crate::{
    config::BusConfig,
    destination::Destination,
    error::Error,
    retry::{FailFast, RetryPolicy},
    routing::Handlers,
};

/// What was said about failing messages.
pub(super) struct Retries {
    pub(super) policy: RetryPolicy,
    pub(super) fail_fast: FailFast,
    pub(super) failed_handlers: Handlers,
    pub(super) dead_letters: String,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            policy: RetryPolicy::default(),
            fail_fast: FailFast::default(),
            failed_handlers: Handlers::default(),
            dead_letters: "dead-letters".to_owned(),
        }
    }
}

impl BusBuilder {
    /// How often and how fast a failing message is tried. Default: [`RetryPolicy::default`], 10 attempts within a minute.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retries.policy = policy;
        self
    }

    /// A message that fails with an error of type `E`, or with one that has an `E` among its sources, is not tried again.
    ///
    /// ```
    /// # use barid::Bus;
    /// #[derive(Debug, thiserror::Error)]
    /// #[error("there is no such order")]
    /// struct NoSuchOrder;
    ///
    /// let builder = Bus::builder("orders").fail_fast::<NoSuchOrder>();
    /// # drop(builder);
    /// ```
    pub fn fail_fast<E: std::error::Error + 'static>(self) -> Self {
        self.fail_fast_when(|error| error.find::<E>().is_some())
    }

    /// A message whose error is `hopeless` is not tried again. An error can say so itself, too:
    /// [`Error::permanent`](crate::Error::permanent).
    pub fn fail_fast_when(mut self, hopeless: impl Fn(&Error) -> bool + Send + Sync + 'static) -> Self {
        self.retries.fail_fast.when(hopeless);
        self
    }

    /// The queue for messages that were given up. Default: `dead-letters`.
    pub fn dead_letters(mut self, queue: impl Into<String>) -> Self {
        self.retries.dead_letters = queue.into();
        self
    }
}

impl Retries {
    /// Configuration over code. Returns where dead letters go.
    pub(super) fn configure(&mut self, config: &BusConfig, problems: &mut Problems) -> Option<Destination> {
        let policy = &mut self.policy;
        policy.attempts_max = config.attempts_max.unwrap_or(policy.attempts_max);
        policy.immediate_max = config.retry_immediate_max.unwrap_or(policy.immediate_max);
        policy.pause = super::build::millis(config.retry_pause_ms, policy.pause);
        policy.pause_max = super::build::millis(config.retry_pause_max_ms, policy.pause_max);
        if policy.attempts_max == 0 || policy.immediate_max == 0 {
            problems.add(
                "BRD019",
                "attempts_max and retry_immediate_max (immediate_max) count the first attempt and must be at least 1",
                "raise the one that is 0, or leave it out for its default",
            );
        }
        if policy.pause > policy.pause_max {
            problems.add(
                "BRD019",
                format!(
                    "the first pause between attempts ({:?}) is longer than the longest ({:?})",
                    policy.pause, policy.pause_max
                ),
                "lower retry_pause_ms (pause) or raise retry_pause_max_ms (pause_max)",
            );
        }
        let queue = config.dead_letter_queue.clone().unwrap_or_else(|| self.dead_letters.clone());
        problems.name(Destination::queue(queue))
    }
}
