//! Refuses to start transactions while too many fail. What was decided is always completed: nothing here is asked then.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::ids::ResourceId;
use crate::worker::breaker::{Breaker, Circuit, CircuitBreaker, Gate, Ticket, Verdict};

/// No transaction is started now: too many have failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("transaction service unavailable: too many transactions failed; try again in {retry_after:?}")]
pub struct CircuitBreakerOpen {
    /// How long until the next one is let through; zero while one is under way that decides it.
    pub retry_after: Duration,
}

/// A circuit breaker before the beginning of transactions. Clones share it; use one for all, or one a resource.
///
/// After the pause one transaction is let through: when it succeeds others follow, when it fails the next pause begins.
#[derive(Clone, Debug)]
pub struct StartBreaker(Arc<Mutex<Breaker>>);

/// A transaction that was let through. Say how it ended; dropping it says nothing either way.
#[derive(Debug)]
#[must_use = "the breaker learns from how the transaction ends"]
pub struct Started {
    breaker: StartBreaker,
    /// Taken when it has ended.
    ticket: Option<Ticket>,
}

impl StartBreaker {
    /// A closed breaker.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: CircuitBreaker) -> Result<Self, String> {
        match settings.problem() {
            Some(problem) => Err(problem),
            None => Ok(Self(Arc::new(Mutex::new(Breaker::new(settings, Instant::now()))))),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // Every change of it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asked before a transaction begins.
    ///
    /// # Errors
    /// [`CircuitBreakerOpen`]: do not begin it.
    pub fn start(&self) -> Result<Started, CircuitBreakerOpen> {
        let now = Instant::now();
        let mut breaker = self.breaker();
        match breaker.gate(now) {
            Gate::Receive => Ok(Started { breaker: self.clone(), ticket: Some(breaker.enter()) }),
            Gate::Wait(until) => {
                Err(CircuitBreakerOpen { retry_after: until.saturating_duration_since(now) })
            }
            Gate::WaitForTrial => Err(CircuitBreakerOpen { retry_after: Duration::ZERO }),
        }
    }

    /// How it is.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        self.breaker().circuit()
    }
}

impl Started {
    /// It ended as it should: committed, or rolled back because the application wanted it.
    pub fn succeeded(self) {
        self.end(Verdict::Success);
    }

    /// A participant failed or did not answer.
    pub fn failed(self) {
        self.end(Verdict::Failure);
    }

    fn end(mut self, verdict: Verdict) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.breaker().ended(ticket, verdict, Instant::now());
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.breaker().ended(ticket, Verdict::Neither, Instant::now());
        }
    }
}

/// The breakers of a coordinator: one for everything, and one for each of its databases.
pub(super) struct Breakers {
    all: StartBreaker,
    each: BTreeMap<ResourceId, StartBreaker>,
}

/// What a transaction was let through by.
pub(super) type Tickets = Vec<(Option<ResourceId>, Started)>;

impl Breakers {
    pub(super) fn new<'a>(
        settings: CircuitBreaker,
        resources: impl Iterator<Item = &'a ResourceId>,
    ) -> Result<Self, String> {
        let each = resources.map(|id| Ok((id.clone(), StartBreaker::new(settings)?)));
        Ok(Self { all: StartBreaker::new(settings)?, each: each.collect::<Result<_, String>>()? })
    }

    /// Asked before a transaction over these databases begins. One that is not let through everywhere says nothing anywhere.
    pub(super) fn start<'a>(
        &self,
        resources: impl Iterator<Item = &'a ResourceId>,
    ) -> Result<Tickets, CircuitBreakerOpen> {
        let mut tickets = vec![(None, self.all.start()?)];
        for id in resources.collect::<BTreeSet<_>>() {
            if let Some(breaker) = self.each.get(id) {
                tickets.push((Some(id.clone()), breaker.start()?));
            }
        }
        Ok(tickets)
    }

    pub(super) fn circuit(&self, resource: Option<&ResourceId>) -> Option<Circuit> {
        match resource {
            None => Some(self.all.circuit()),
            Some(id) => self.each.get(id).map(StartBreaker::circuit),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_lets_one_through_and_closes() {
        let pause = Duration::from_secs(30);
        let settings = CircuitBreaker { messages_min: NonZeroU32::MIN, pause, ..CircuitBreaker::default() };
        let breaker = StartBreaker::new(settings).unwrap();
        let under_way = breaker.start().unwrap();
        breaker.start().unwrap().failed();
        assert_eq!(breaker.circuit(), Circuit::Open);
        let refused = breaker.start().unwrap_err();
        assert_eq!(refused.retry_after, pause);
        assert!(refused.to_string().starts_with("transaction service unavailable"), "{refused}");
        under_way.succeeded();
        assert_eq!(breaker.circuit(), Circuit::Open, "what began before decides nothing");

        tokio::time::advance(pause).await;
        let trial = breaker.start().unwrap();
        assert_eq!(breaker.start().unwrap_err().retry_after, Duration::ZERO, "one at a time");
        drop(trial);
        breaker.start().unwrap().failed();
        assert_eq!(breaker.circuit(), Circuit::Open);
        tokio::time::advance(pause).await;
        breaker.start().unwrap().succeeded();
        assert_eq!(breaker.circuit(), Circuit::Closed);
        assert!(StartBreaker::new(CircuitBreaker { failures_percent: 0, ..settings }).is_err());
    }
}
