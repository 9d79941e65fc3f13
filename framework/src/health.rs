//! How a bus is: a cheap snapshot for operators, health checks and supervisors.
//!
//! [`Bus::health`](crate::Bus::health) makes a [`Health`] from what the worker noted; nothing is asked of a server. It shows a
//! worker that hangs as what it is: a receive that never returns makes [`Health::heartbeat_age`] grow, handlers that never
//! end fill all places, and [`Health::stuck`] tells the two apart.

use std::time::Duration;

use crate::worker::breaker::Circuit;

mod vitals;
pub(crate) use vitals::{Ended, Vitals};

/// How a bus was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The bus.
    pub bus: String,
    /// What it is doing.
    pub state: BusState,
    /// Whether its circuit breaker lets it receive.
    pub circuit: Circuit,
    /// How often it was started.
    pub starts: u64,
    /// How long ago the worker gave its last sign of life; `None` before its first start.
    ///
    /// A worker that runs gives one every second, also when it waits for messages, for a free place, for its rate limit or
    /// for its circuit breaker. While it waits for messages, and the transport knows when it last heard of its broker, that
    /// is the sign: a poll that never returns makes it old.
    pub heartbeat_age: Option<Duration>,
    /// Messages that are being handled.
    pub in_flight: usize,
    /// Messages that may be handled at the same time.
    pub parallelism: usize,
    /// How long the message that is being handled longest has been.
    pub oldest_in_flight: Option<Duration>,
    /// How long the message that was taken last has been handled.
    pub youngest_in_flight: Option<Duration>,
    /// Deliveries that were handled well since the process started, duplicates included.
    pub handled: u64,
    /// Deliveries that failed since the process started, whether tried again or given up. Those that are only to come again
    /// later count neither way.
    pub failed: u64,
    /// Failed attempts to receive since the last one that worked.
    pub receive_failures: u64,
    /// The last thing that went wrong: a message, receiving, starting.
    pub last_error: Option<LastError>,
    /// What runs beside the worker.
    pub background: Vec<TaskHealth>,
}

/// What a bus is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusState {
    /// It was never run, or ended as it was told.
    #[default]
    Stopped,
    /// It looks at its unit of work and declares its queue.
    Starting,
    /// It receives.
    Running,
    /// It runs, and its circuit breaker keeps it from receiving.
    Paused,
    /// It was told to stop and waits for the handlers that run.
    Stopping,
    /// It ended with an error or a panic.
    Crashed,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// What it said; cut after [`ERROR_TEXT_BYTES_MAX`](crate::limits::ERROR_TEXT_BYTES_MAX).
    pub text: String,
    /// How long ago.
    pub age: Duration,
}

/// How one background task of a bus is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskHealth {
    /// Its name.
    pub name: &'static str,
    /// Whether it runs. One that does not has ended, or waits to be started again.
    pub running: bool,
    /// How often it was started again after an error or a panic.
    pub restarts: u64,
    /// Its last error.
    pub last_error: Option<LastError>,
}

/// In what a worker is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stuck {
    /// The worker itself: a receive that does not return, or a thread that is blocked. The last sign of life is this old.
    Worker(Duration),
    /// Its handlers: every place is taken, and none has become free for this long.
    Handlers(Duration),
}

impl Health {
    /// Whether the bus, while it runs, has done nothing for longer than `patience`, and where it hangs. `None` is well, or not
    /// running.
    ///
    /// Handlers count as stuck when all places are taken and none became free within `patience`: choose it longer than the
    /// slowest handler takes.
    #[must_use]
    pub fn stuck(&self, patience: Duration) -> Option<Stuck> {
        if !matches!(self.state, BusState::Running | BusState::Paused) {
            return None;
        }
        if let Some(age) = self.heartbeat_age.filter(|age| *age > patience) {
            return Some(Stuck::Worker(age));
        }
        let newest = self.youngest_in_flight.filter(|_| self.in_flight >= self.parallelism)?;
        (newest > patience).then_some(Stuck::Handlers(newest))
    }
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Worker(age) => write!(f, "the worker has given no sign of life for {age:?}"),
            Self::Handlers(age) => {
                write!(f, "every place is taken by a handler, and none has ended for {age:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(health: impl FnOnce(&mut Health), expected: Option<Stuck>) {
        let vitals = Vitals::default();
        let mut snapshot = vitals.snapshot("orders", 2);
        snapshot.state = BusState::Running;
        snapshot.heartbeat_age = Some(Duration::ZERO);
        health(&mut snapshot);
        assert_eq!(snapshot.stuck(Duration::from_secs(10)), expected, "{snapshot:?}");
    }

    #[test]
    fn a_stuck_receive_and_stuck_handlers_are_told_apart() {
        let (short, long) = (Duration::from_secs(10), Duration::from_secs(11));
        check(|_| {}, None);
        check(|health| health.heartbeat_age = Some(short), None);
        check(|health| health.heartbeat_age = Some(long), Some(Stuck::Worker(long)));
        let handlers = |in_flight, youngest| {
            move |health: &mut Health| {
                health.in_flight = in_flight;
                health.oldest_in_flight = Some(Duration::from_secs(100));
                health.youngest_in_flight = Some(youngest);
            }
        };
        check(handlers(1, long), None); // a slow one beside a free place
        check(handlers(2, short), None);
        check(handlers(2, long), Some(Stuck::Handlers(long)));
        for state in [BusState::Stopped, BusState::Starting, BusState::Stopping, BusState::Crashed] {
            check(|health| (health.state, health.heartbeat_age) = (state, Some(long)), None);
        }
        check(
            |health| (health.state, health.heartbeat_age) = (BusState::Paused, Some(long)),
            Some(Stuck::Worker(long)),
        );
    }
}
