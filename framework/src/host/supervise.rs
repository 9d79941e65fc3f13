//! One task per bus, started again when it crashed.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{HostError, RestartPolicy};
use crate::{
    bus::{Bus, BusError},
    error::panic_text,
};

/// Runs the buses until `stop` is ready or one of them ends the host. All of them have ended when it returns; dropped, all are
/// dropped.
pub(super) async fn run(
    buses: Vec<Bus>,
    policy: RestartPolicy,
    mut on_ready: Option<Box<dyn FnOnce() + Send>>,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), HostError> {
    let stopping = CancellationToken::new();
    let mut missing = buses.len();
    let (started, mut first_starts) = mpsc::channel(buses.len().max(1));
    let mut tasks = JoinSet::new();
    for bus in buses {
        let supervised = Supervised {
            bus,
            has_started: Arc::default(),
            started: started.clone(),
            stopping: stopping.clone(),
        };
        tasks.spawn(supervised.run(policy.clone()));
    }
    drop(started);
    let mut stop = std::pin::pin!(stop);
    let mut result = Ok(());
    loop {
        if missing == 0
            && let Some(ready) = on_ready.take()
        {
            ready();
        }
        tokio::select! {
            () = &mut stop, if !stopping.is_cancelled() => stopping.cancel(),
            Some(()) = first_starts.recv() => missing -= 1,
            Some(ended) = tasks.join_next() => {
                let Ok(Err(error)) = ended else { continue };
                stopping.cancel();
                match &result {
                    Ok(()) => result = Err(error),
                    Err(_) => tracing::error!(%error, "another bus ended with an error"),
                }
            }
            else => return result,
        }
    }
}

/// One bus under supervision.
struct Supervised {
    bus: Bus,
    has_started: Arc<AtomicBool>,
    /// Told at its first start.
    started: mpsc::Sender<()>,
    stopping: CancellationToken,
}

/// How one run of a bus ended.
enum Crash {
    Failed(BusError),
    Panicked(String),
}

impl Supervised {
    async fn run(self, policy: RestartPolicy) -> Result<(), HostError> {
        let mut pauses = match &policy {
            RestartPolicy::Restart(backoff) => Some(backoff.start()),
            RestartPolicy::Never => None,
        };
        loop {
            let began = Instant::now();
            let Err(crash) = self.run_once().await else { return Ok(()) };
            let lasts = crash.lasts() && !self.has_started.load(Ordering::Acquire);
            let Some(pauses) = pauses.as_mut().filter(|_| !lasts && !self.stopping.is_cancelled()) else {
                return Err(crash.error(&self.bus, lasts));
            };
            pauses.had_run(began.elapsed());
            let pause = pauses.pause();
            tracing::error!(bus = self.bus.name(), error = %crash, retry_ms = pause.as_millis(), "a bus crashed");
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Runs the bus in a task of its own, so that a panic ends only that.
    async fn run_once(&self) -> Result<(), Crash> {
        let (bus, stop) = (self.bus.clone(), self.stopping.clone());
        let (has_started, started) = (Arc::clone(&self.has_started), self.started.clone());
        let mut task = JoinSet::new(); // dropped, it aborts its task
        task.spawn(async move {
            let tell = || {
                if !has_started.swap(true, Ordering::AcqRel) {
                    // There is room for the one message of every bus; without a host nobody needs it.
                    let _ = started.try_send(());
                }
            };
            bus.run_telling(stop.cancelled_owned(), tell).await
        });
        match task.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(Crash::Failed(error)),
            Some(Err(error)) => Err(Crash::Panicked(match error.try_into_panic() {
                Ok(panic) => panic_text(panic.as_ref()).to_owned(),
                Err(error) => error.to_string(),
            })),
        }
    }
}

impl Crash {
    /// Whether starting again cannot help.
    fn lasts(&self) -> bool {
        matches!(self, Self::Failed(error) if !error.is_transient())
    }

    fn error(self, bus: &Bus, lasts: bool) -> HostError {
        let bus = bus.name().to_owned();
        match self {
            Self::Failed(cause) => HostError::Bus {
                bus,
                cause,
                remedy: if lasts {
                    "it could not start and trying again cannot help: correct what it names, then start the process again"
                } else {
                    "it was not started again, because RestartPolicy says so or the host was stopping"
                },
            },
            Self::Panicked(text) => HostError::Panicked { bus, text },
        }
    }
}

impl std::fmt::Display for Crash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Panicked(text) => write!(f, "it panicked: {text}"),
        }
    }
}
