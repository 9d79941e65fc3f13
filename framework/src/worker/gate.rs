//! What a worker waits for before it receives: a free place, the circuit breaker, the rate limit. And what a delivery that was
//! taken holds until its end.

use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{
    breaker::{Breaker, Circuit, Gate as Decision, Ticket, Verdict},
    rate::Bucket,
};
use crate::{
    bus::BusCore,
    health::{Ended, Vitals},
    limits,
};

/// The gate of one run of a worker.
pub(super) struct Gate {
    core: Arc<BusCore>,
    places: Arc<Semaphore>,
    bucket: Option<Bucket>,
    circuit: Option<Arc<CircuitState>>,
}

/// A free place. Dropped, it is free for the next.
pub(super) type Place = Option<OwnedSemaphorePermit>;

impl Gate {
    pub(super) fn new(core: &Arc<BusCore>) -> Self {
        let (now, settings) = (Instant::now(), &core.settings.worker);
        Self {
            core: Arc::clone(core),
            places: Arc::new(Semaphore::new(core.settings.parallelism)),
            bucket: settings.rate_limit.map(|limit| Bucket::new(limit, now)),
            circuit: settings.circuit_breaker.map(|settings| {
                Arc::new(CircuitState {
                    breaker: Mutex::new(Breaker::new(settings, now)),
                    changed: Notify::new(),
                })
            }),
        }
    }

    /// Waits until a message may be received. Cancel safe.
    pub(super) async fn pass(&self) -> Place {
        let vitals = &self.core.vitals;
        // Nobody closes the semaphore, so there always is a permit.
        let place = beating(vitals, Arc::clone(&self.places).acquire_owned()).await.ok();
        loop {
            match self.circuit.as_ref().map_or(Decision::Receive, |circuit| circuit.gate(&self.core)) {
                Decision::Wait(until) => beating(vitals, tokio::time::sleep_until(until)).await,
                Decision::WaitForTrial => beating(vitals, self.circuit_changed()).await,
                Decision::Receive => {
                    let now = Instant::now();
                    match self.bucket.as_ref().map(|bucket| bucket.ready_at(now)).filter(|at| *at > now) {
                        // A long wait for the rate: the circuit may have opened meanwhile.
                        Some(at) => beating(vitals, tokio::time::sleep_until(at)).await,
                        None => return place,
                    }
                }
            }
        }
    }

    /// Returns when the circuit breaker changed since it was last looked at. Never without one. Cancel safe.
    pub(super) async fn circuit_changed(&self) {
        match &self.circuit {
            Some(circuit) => circuit.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// A delivery was received.
    pub(super) fn enter(&mut self, place: Place) -> Flight {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(Instant::now());
        }
        Flight {
            number: self.core.vitals.entered(),
            ticket: self.circuit.as_ref().map(|circuit| (Arc::clone(circuit), circuit.lock().enter())),
            core: Arc::clone(&self.core),
            end: None,
            _place: place,
        }
    }
}

/// One delivery under way. However it ends, by a panic too, its place is free again and its end is counted once.
pub(super) struct Flight {
    core: Arc<BusCore>,
    number: u64,
    ticket: Option<(Arc<CircuitState>, Ticket)>,
    end: Option<(Verdict, Ended)>,
    _place: Place,
}

impl Flight {
    pub(super) fn end(mut self, verdict: Verdict, ended: Ended) {
        self.end = Some((verdict, ended));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let (verdict, ended) = self.end.take().unwrap_or_else(|| match std::thread::panicking() {
            true => (Verdict::Failure, Ended::Failed("the task of a message panicked".to_owned())),
            // Dropped when the bus stopped; the message comes again.
            false => (Verdict::Neither, Ended::Later),
        });
        self.core.vitals.left(self.number, ended);
        if let Some((circuit, ticket)) = self.ticket.take() {
            circuit.ended(&self.core, ticket, verdict);
        }
    }
}

struct CircuitState {
    breaker: Mutex<Breaker>,
    /// For the one loop that receives.
    changed: Notify,
}

impl CircuitState {
    fn lock(&self) -> MutexGuard<'_, Breaker> {
        // Its decisions do not panic half way.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gate(&self, core: &BusCore) -> Decision {
        let mut breaker = self.lock();
        let before = breaker.circuit();
        let decision = breaker.gate(Instant::now());
        tell(core, before, breaker.circuit());
        decision
    }

    fn ended(&self, core: &BusCore, ticket: Ticket, verdict: Verdict) {
        let mut breaker = self.lock();
        let before = breaker.circuit();
        breaker.ended(ticket, verdict, Instant::now());
        let after = breaker.circuit();
        tell(core, before, after);
        drop(breaker);
        // Half open, the end of the one message matters even when it changes nothing.
        if before != after || after == Circuit::HalfOpen {
            self.changed.notify_one();
        }
    }
}

/// Logs a transition, once.
fn tell(core: &BusCore, before: Circuit, after: Circuit) {
    if before == after {
        return;
    }
    core.vitals.circuit(after);
    let bus = &core.name;
    match after {
        Circuit::Open => {
            let pause = core.settings.worker.circuit_breaker.map(|settings| settings.pause);
            tracing::error!(bus, ?pause, "too many messages fail: the circuit breaker pauses receiving");
        }
        Circuit::HalfOpen => tracing::info!(bus, "the circuit breaker lets one message through"),
        Circuit::Closed => tracing::info!(bus, "the circuit breaker lets messages through again"),
    }
}

/// Waits for `what` and gives signs of life meanwhile. As cancel safe as `what` is.
pub(super) async fn beating<T>(vitals: &Vitals, what: impl Future<Output = T>) -> T {
    let mut what = pin!(what);
    loop {
        vitals.beat(Duration::ZERO);
        if let Ok(done) = tokio::time::timeout(limits::HEARTBEAT, &mut what).await {
            return done;
        }
    }
}
