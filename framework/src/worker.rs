//! Receives, runs the pipeline, settles: the loop of a running bus.
//!
//! Bounded parallelism, one task a message, every exit of a task seen. A delivery that was received is always handled: the
//! rate limit and the circuit breaker only hold back the next receive. Stopping ends receiving first, then waits for the
//! handlers that run, for a bounded time; what is still running after that is dropped, which rolls it back.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use crate::{
    backoff::Progress,
    bus::{BusCore, BusError},
    error::{Disposition, Error},
    health::Ended,
    incoming::Incoming,
    limits,
    pipeline::IncomingContext,
    transport::{Consumer, Delivery, TransportError},
};

pub(crate) mod breaker;
mod gate;
pub(crate) mod rate;

use breaker::Verdict;
use gate::{Flight, Gate, beating};

/// Runs until `stop` is ready or the transport fails for good.
pub(crate) async fn run(
    core: Arc<BusCore>,
    mut consumer: Box<dyn Consumer>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), BusError> {
    let mut running = JoinSet::new();
    let result = receive_until(&core, consumer.as_mut(), &mut running, stop).await;
    core.vitals.stopping();
    beating(&core.vitals, drain(&core, running)).await;
    match tokio::time::timeout(limits::CALL_TIMEOUT, consumer.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(bus = core.name, %error, "closing the consumer"),
        Err(_) => tracing::warn!(bus = core.name, "closing the consumer took too long: it is dropped"),
    }
    result
}

/// What a bus that only sends does: nothing, until `stop` is ready.
pub(crate) async fn wait(core: &BusCore, stop: impl Future<Output = ()> + Send) {
    beating(&core.vitals, stop).await;
    core.vitals.stopping();
}

async fn receive_until(
    core: &Arc<BusCore>,
    consumer: &mut dyn Consumer,
    running: &mut JoinSet<()>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), BusError> {
    let mut stop = std::pin::pin!(stop);
    let mut gate = Gate::new(core);
    let mut failures = Failures { pauses: core.settings.worker.error_backoff.start(), last: None };
    loop {
        let place = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            place = gate.pass() => place,
        };
        let received = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            () = gate.circuit_changed() => continue,
            received = receive(core, consumer, &mut failures) => received,
        };
        while let Some(ended) = running.try_join_next() {
            report(ended);
        }
        match received {
            Ok(delivery) => {
                failures.pauses.reset();
                running.spawn(handle(Arc::clone(core), gate.enter(place), delivery));
            }
            Err(error) if !error.is_transient() => return Err(BusError::Transport(error)),
            Err(error) => {
                let pause = failures.pause(core, &error);
                tokio::select! {
                    biased;
                    () = &mut stop => return Ok(()),
                    () = beating(&core.vitals, tokio::time::sleep(pause)) => {}
                }
            }
        }
    }
}

/// How receiving failed lately.
struct Failures {
    pauses: Progress,
    last: Option<Instant>,
}

impl Failures {
    fn pause(&mut self, core: &BusCore, error: &TransportError) -> Duration {
        let pause = self.pauses.pause();
        self.last = Some(Instant::now());
        core.vitals.receive_failed(error);
        tracing::warn!(bus = core.name, %error, retry_ms = pause.as_millis(), "receiving");
        pause
    }

    /// There was nothing to receive. When the broker was heard of since the last failure, that is over.
    fn quiet(&mut self, core: &BusCore, silence: Duration) {
        if self.last.is_some_and(|failed| failed.elapsed() > silence) {
            self.last = None;
            self.pauses.reset();
            core.vitals.receive_works();
        }
    }
}

/// The next delivery. Asks the consumer how it is for as long as there is none. Cancel safe, as `Consumer::receive` is.
async fn receive(
    core: &BusCore,
    consumer: &mut dyn Consumer,
    failures: &mut Failures,
) -> Result<Delivery, TransportError> {
    loop {
        if let Ok(received) = tokio::time::timeout(limits::HEARTBEAT, consumer.receive()).await {
            return received;
        }
        let silence = consumer.silent_for();
        if let Some(silence) = silence {
            failures.quiet(core, silence);
        }
        core.vitals.beat(silence.unwrap_or_default());
    }
}

/// One delivery, from the transport's hands to its settlement.
async fn handle(core: Arc<BusCore>, flight: Flight, delivery: Delivery) {
    let incoming = match Incoming::read(&delivery) {
        Ok(incoming) => incoming,
        Err(cause) => {
            core.bury_unreadable(delivery, &cause).await;
            return flight.end(Verdict::Neither, Ended::Failed(cause));
        }
    };
    let mut cx = IncomingContext::new(Arc::clone(&core), incoming, delivery.settlement);
    // The pipeline logs its own failures and settles the delivery.
    let result = core.incoming.run(&mut cx).await;
    let (verdict, ended) = judge(&result, cx.says_nothing);
    flight.end(verdict, ended);
}

/// What the end of a message says to the circuit breaker and to the counters.
fn judge(result: &Result<(), Error>, says_nothing: bool) -> (Verdict, Ended) {
    let Err(error) = result else { return (Verdict::Success, Ended::Handled) };
    let verdict = if says_nothing { Verdict::Neither } else { Verdict::Failure };
    match (error.disposition(), says_nothing) {
        (Disposition::Later, true) => (verdict, Ended::Later),
        _ => (verdict, Ended::Failed(error.to_string())),
    }
}

async fn drain(core: &BusCore, mut running: JoinSet<()>) {
    if tokio::time::timeout(core.settings.stop_grace, all_ended(&mut running)).await.is_ok() {
        return;
    }
    tracing::warn!(
        bus = core.name,
        handlers = running.len(),
        "handlers still ran when the grace period ended: they are dropped, their messages come again"
    );
    running.abort_all();
    if tokio::time::timeout(limits::DROP_WAIT, all_ended(&mut running)).await.is_err() {
        tracing::error!(
            bus = core.name,
            handlers = running.len(),
            "handlers that block their thread cannot be dropped: they go on without their bus until they return. Use \
             tokio::task::spawn_blocking for what blocks"
        );
    }
}

async fn all_ended(running: &mut JoinSet<()>) {
    while let Some(ended) = running.join_next().await {
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    match ended {
        Err(error) if !error.is_cancelled() => {
            tracing::error!(%error, "the task of a message ended abnormally; the message will come again");
        }
        _ => {}
    }
}
