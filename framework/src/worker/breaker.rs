//! When to stop receiving because too much fails: the circuit breaker's decisions, without clock, lock or task.
//!
//! The worker asks [`Breaker::gate`] before it receives, gets a [`Ticket`] from [`Breaker::enter`] for each delivery it took,
//! and tells [`Breaker::ended`] what became of it. Promised: between opening and closing again at most one message is let
//! through at a time; a delivery that was taken all the same is handled, and its end decides nothing.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use crate::limits;

/// Slices of the window. The oldest is forgotten as a whole, so the window is exact to a tenth of its length.
const SLICES: u32 = 10;

/// Stops receiving for a while when too large a share of the messages fails.
///
/// What counts as a failure is a handler or a commit that failed, and a unit of work that could not begin. A message that is in
/// progress elsewhere, one that a handler wants later, and one that cannot be read count neither way. While it is paused the
/// transport keeps what it has already fetched; nothing is given back, nothing is dropped, and messages under way run to
/// their end. After the pause one message is let through: when it succeeds receiving goes on, when it fails the next pause
/// begins.
///
/// Off unless it is given to [`BusBuilder::circuit_breaker`](crate::BusBuilder::circuit_breaker) or configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// Opens when at least this share of the messages in the window failed, 1 to 100. Default: 50.
    pub failures_percent: u8,
    /// As long as the window has fewer messages than this it stays closed. Default: 10.
    pub messages_min: NonZeroU32,
    /// How long a message is counted. Default: 60 s.
    pub window: Duration,
    /// How long receiving pauses. At most 10 minutes: RabbitMQ closes channels whose deliveries stay unsettled for 30.
    /// Default: 30 s.
    pub pause: Duration,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            failures_percent: 50,
            messages_min: NonZeroU32::MIN.saturating_add(9),
            window: Duration::from_secs(60),
            pause: Duration::from_secs(30),
        }
    }
}

impl CircuitBreaker {
    /// What is wrong with the settings.
    pub(crate) fn problem(&self) -> Option<String> {
        if !(1..=100).contains(&self.failures_percent) {
            return Some(format!("its share of failures is {} %, not 1 to 100", self.failures_percent));
        }
        if self.window < Duration::from_millis(u64::from(SLICES)) || self.pause.is_zero() {
            return Some("its window is shorter than 10 ms or its pause is 0".to_owned());
        }
        let longest = limits::CIRCUIT_PAUSE_MAX;
        (self.pause > longest).then(|| format!("its pause is {:?}, longer than {longest:?}", self.pause))
    }
}

/// Whether a bus receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Circuit {
    /// It does. Also when there is no circuit breaker.
    #[default]
    Closed,
    /// It pauses because too much failed.
    Open,
    /// It lets one message through to see whether it can go on.
    HalfOpen,
}

/// What the end of one message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    Failure,
    /// Nothing about whether handlers work.
    Neither,
}

/// Whether the next message may be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Receive,
    /// Not before this.
    Wait(Instant),
    /// Not before the one message that was let through has ended.
    WaitForTrial,
}

/// The phase in which a message was taken. Ends of messages from an earlier phase decide nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    settings: CircuitBreaker,
    phase: Phase,
    number: u64,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed(Window),
    Open { until: Instant },
    HalfOpen { trial: bool },
}

impl Breaker {
    pub(crate) fn new(settings: CircuitBreaker, now: Instant) -> Self {
        Self { settings, phase: Phase::Closed(Window::new(now)), number: 0 }
    }

    /// Whether to receive. Turns half open when the pause is over.
    pub(crate) fn gate(&mut self, now: Instant) -> Gate {
        match self.phase {
            Phase::Open { until } if now < until => Gate::Wait(until),
            Phase::Open { .. } => {
                self.turn(Phase::HalfOpen { trial: false });
                Gate::Receive
            }
            Phase::HalfOpen { trial: true } => Gate::WaitForTrial,
            Phase::HalfOpen { trial: false } | Phase::Closed(_) => Gate::Receive,
        }
    }

    /// A message was received.
    pub(crate) fn enter(&mut self) -> Ticket {
        if let Phase::HalfOpen { trial } = &mut self.phase {
            *trial = true;
        }
        Ticket(self.number)
    }

    /// What became of it. Every ticket ends exactly once.
    pub(crate) fn ended(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        if ticket.0 != self.number {
            return;
        }
        let settings = self.settings;
        match (&mut self.phase, verdict) {
            (Phase::Closed(window), _) => {
                window.count(verdict, settings.window, now);
                if window.trips(&settings) {
                    self.turn(Phase::Open { until: now + settings.pause });
                }
            }
            (Phase::HalfOpen { .. }, Verdict::Success) => self.turn(Phase::Closed(Window::new(now))),
            (Phase::HalfOpen { .. }, Verdict::Failure) => {
                self.turn(Phase::Open { until: now + settings.pause });
            }
            (Phase::HalfOpen { trial }, Verdict::Neither) => *trial = false,
            (Phase::Open { .. }, _) => {} // nothing is let through in this phase, so nothing of it ends
        }
    }

    pub(crate) fn circuit(&self) -> Circuit {
        match self.phase {
            Phase::Closed(_) => Circuit::Closed,
            Phase::Open { .. } => Circuit::Open,
            Phase::HalfOpen { .. } => Circuit::HalfOpen,
        }
    }

    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.number += 1;
    }
}

/// The ends of the last time, in slices: bounded however fast messages come.
#[derive(Clone, Debug)]
struct Window {
    began: Instant,
    /// The number of the newest slice since then; the others are the ones before it.
    newest: u128,
    slices: [Slice; SLICES as usize],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    all: u64,
    failures: u64,
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, newest: 0, slices: Default::default() }
    }

    fn count(&mut self, verdict: Verdict, length: Duration, now: Instant) {
        let slice_ns = (length / SLICES).as_nanos().max(1);
        let current = (now.saturating_duration_since(self.began).as_nanos() / slice_ns).max(self.newest);
        for number in (self.newest + 1..=current).rev().take(SLICES as usize) {
            self.slices[Self::index(number)] = Slice::default();
        }
        self.newest = current;
        let slice = &mut self.slices[Self::index(current)];
        slice.all += u64::from(verdict != Verdict::Neither);
        slice.failures += u64::from(verdict == Verdict::Failure);
    }

    fn index(number: u128) -> usize {
        usize::try_from(number % u128::from(SLICES)).unwrap_or_default()
    }

    fn trips(&self, settings: &CircuitBreaker) -> bool {
        let all: u64 = self.slices.iter().map(|slice| slice.all).sum();
        let failures: u64 = self.slices.iter().map(|slice| slice.failures).sum();
        all >= u64::from(settings.messages_min.get())
            && failures > 0
            && failures * 100 >= all * u64::from(settings.failures_percent)
    }
}

#[cfg(test)]
mod tests;
