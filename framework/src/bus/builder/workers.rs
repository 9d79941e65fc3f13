//! How a bus receives: pauses, rate limit, circuit breaker, or not at all.

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use super::{BusBuilder, problems::Problems};
use crate::{
    backoff::Backoff,
    config::BusConfig,
    limits,
    worker::{breaker::CircuitBreaker, rate::RateLimit},
};

/// The settings of the worker that are in force, whoever set them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerSettings {
    /// The pauses between looks while there is nothing to receive, where the transport has to look.
    pub receive_backoff: Backoff,
    /// The pauses after receiving failed.
    pub error_backoff: Backoff,
    /// How many messages a second it takes at most.
    pub rate_limit: Option<RateLimit>,
    /// When it pauses because too much fails.
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// What the code said about it.
#[derive(Default)]
pub(super) struct WorkerParts {
    receive_backoff: Option<Vec<Duration>>,
    error_backoff: Option<Vec<Duration>>,
    rate_limit: Option<RateLimit>,
    circuit_breaker: Option<CircuitBreaker>,
    pub(super) send_only: bool,
    pub(super) queue_was_named: bool,
}

/// The keys whose origin is shown when they are configured; all others are from the code or are defaults.
const KEYS: [&str; 11] = [
    "parallelism",
    "prefetch",
    "stop_grace_ms",
    "receive_backoff_ms",
    "error_backoff_ms",
    "rate_limit_per_second",
    "rate_limit_burst",
    "circuit_breaker_percent",
    "circuit_breaker_messages_min",
    "circuit_breaker_window_ms",
    "circuit_breaker_pause_ms",
];

impl BusBuilder {
    /// How long to wait between looks while there is nothing to receive, one step after the other; a message begins anew. Only
    /// where the transport has to look: the SQL queue, when the sender is another process. Default: 1 ms, doubling up to 50 ms.
    ///
    /// Longer steps spare the database, and are how late a message may be noticed.
    pub fn receive_backoff(mut self, steps: impl IntoIterator<Item = Duration>) -> Self {
        self.worker.receive_backoff = Some(steps.into_iter().collect());
        self
    }

    /// How long to wait after receiving failed, one step after the other. A delivery begins anew, and so does a quiet time in
    /// which the broker was heard of. Default: 100 ms, doubling up to 5 s.
    pub fn error_backoff(mut self, steps: impl IntoIterator<Item = Duration>) -> Self {
        self.worker.error_backoff = Some(steps.into_iter().collect());
        self
    }

    /// Takes no more messages a second than this. Each instance counts for itself. Default: no limit.
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        self.worker.rate_limit = Some(limit);
        self
    }

    /// Pauses receiving while too much fails. Default: off.
    pub fn circuit_breaker(mut self, breaker: CircuitBreaker) -> Self {
        self.worker.circuit_breaker = Some(breaker);
        self
    }

    /// A bus without inbox: it has no handlers and no subscriptions, makes no queue and receives nothing.
    /// [`Bus::run_until`](crate::Bus::run_until) then only runs what runs in the background.
    pub fn send_only(mut self) -> Self {
        self.worker.send_only = true;
        self
    }

    /// Configuration over code.
    pub(super) fn effective_worker(
        &mut self,
        config: &BusConfig,
        origins: &mut BTreeMap<&'static str, String>,
        problems: &mut Problems,
    ) -> Option<WorkerSettings> {
        let configured = KEYS.iter().filter_map(|key| Some((*key, config.origins.get(*key)?.clone())));
        origins.extend(configured);
        let parts = &mut self.worker;
        let poll = Backoff::doubling(limits::RECEIVE_PAUSE, limits::RECEIVE_PAUSE_MAX);
        let error = Backoff::doubling(limits::ERROR_PAUSE, limits::ERROR_PAUSE_MAX);
        let receive_backoff = steps(
            "receive_backoff",
            config.receive_backoff_ms.as_deref(),
            parts.receive_backoff.take(),
            poll,
            problems,
        );
        let error_backoff = steps(
            "error_backoff",
            config.error_backoff_ms.as_deref(),
            parts.error_backoff.take(),
            error,
            problems,
        );
        let settings = WorkerSettings {
            receive_backoff: receive_backoff?,
            error_backoff: error_backoff?,
            rate_limit: rate_limit(config, parts.rate_limit, problems),
            circuit_breaker: circuit_breaker(config, parts.circuit_breaker, problems),
        };
        self.inbox.poll = settings.receive_backoff.clone();
        Some(settings)
    }

    pub(super) fn check_send_only(&self, problems: &mut Problems) {
        if !self.worker.send_only {
            return;
        }
        let given = [
            (!self.handlers.is_empty(), "handlers"),
            (!self.inbox.topics.is_empty(), "subscriptions"),
            (self.worker.queue_was_named, "a queue"),
        ];
        let given: Vec<_> = given.iter().filter_map(|(is, what)| is.then_some(*what)).collect();
        if !given.is_empty() {
            problems.add(
                "BRD081",
                format!(
                    "it only sends, but it has {}: nobody would ever receive for them",
                    given.join(" and ")
                ),
                "leave .send_only() out, or leave these to a bus that receives",
            );
        }
    }
}

fn steps(
    what: &str,
    config: Option<&[u64]>,
    code: Option<Vec<Duration>>,
    default: Backoff,
    problems: &mut Problems,
) -> Option<Backoff> {
    let configured = config.map(|steps| steps.iter().copied().map(Duration::from_millis).collect());
    let Some(steps) = configured.or(code) else { return Some(default) };
    Backoff::new(steps)
        .map_err(|error| {
            problems.add(
                "BRD019",
                format!("{what}: {error}"),
                "give it steps, or leave it out for its default",
            );
        })
        .ok()
}

fn rate_limit(config: &BusConfig, code: Option<RateLimit>, problems: &mut Problems) -> Option<RateLimit> {
    let limit = match config.rate_limit_per_second {
        Some(0) => return None,
        Some(rate) => NonZeroU32::new(rate).map(RateLimit::per_second),
        None => code,
    };
    match (limit, config.rate_limit_burst.map(NonZeroU32::new)) {
        (limit, None) => limit,
        (Some(limit), Some(Some(burst))) => Some(limit.burst(burst)),
        (None, Some(_)) => {
            needs("rate_limit_burst", "rate_limit_per_second", problems);
            None
        }
        (_, Some(None)) => {
            problems.add("BRD019", "rate_limit_burst is 0", "raise it, or leave it out for its default, 1");
            None
        }
    }
}

fn circuit_breaker(
    config: &BusConfig,
    code: Option<CircuitBreaker>,
    problems: &mut Problems,
) -> Option<CircuitBreaker> {
    let mut breaker = match config.circuit_breaker_percent {
        Some(0) => return None,
        Some(failures_percent) => Some(CircuitBreaker { failures_percent, ..code.unwrap_or_default() }),
        None => code,
    };
    let millis = |value: NonZeroU64| Duration::from_millis(value.get());
    let (min, window, pause) = (
        config.circuit_breaker_messages_min,
        config.circuit_breaker_window_ms.map(millis),
        config.circuit_breaker_pause_ms.map(millis),
    );
    if let Some(breaker) = &mut breaker {
        breaker.messages_min = min.unwrap_or(breaker.messages_min);
        breaker.window = window.unwrap_or(breaker.window);
        breaker.pause = pause.unwrap_or(breaker.pause);
        if let Some(problem) = breaker.problem() {
            problems.add(
                "BRD082",
                format!("its circuit breaker cannot work: {problem}"),
                "correct the setting",
            );
        }
    } else if min.is_some() || window.is_some() || pause.is_some() {
        needs("circuit_breaker_*", "circuit_breaker_percent", problems);
    }
    breaker
}

/// A key that says something about what is not there.
fn needs(key: &str, other: &str, problems: &mut Problems) {
    problems.add(
        "BRD083",
        format!("{key} is configured, but neither {other} nor the code turns on what it is about"),
        format!("set {other} too, or leave {key} out"),
    );
}
