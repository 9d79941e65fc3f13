//! Several buses in one process: started together, each supervised, stopped together.
//!
//! A [`Host`] runs one task per bus. A bus that ends with an error or a panic is started again after a pause while the others go
//! on. Start and stop hooks stand around all of them. It opens no connection of its own, and serves no HTTP: health checks ask
//! [`Bus::health`].

use std::{future::Future, time::Duration};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    bus::{Bus, BusError},
    error::{Error, Result},
    health::Stuck,
    limits,
};

mod hooks;
mod liveness;
mod signals;
mod supervise;

use hooks::Hook;

/// Runs several buses until it is told to stop.
///
/// ```no_run
/// # async fn doc(orders: barid::Bus, shipping: barid::Bus) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use barid::Host;
///
/// Host::new()
///     .bus(orders)
///     .bus(shipping)
///     .liveness(Duration::from_secs(60))
///     .on_ready(|| println!("ready"))
///     .run() // until SIGTERM or SIGINT
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "a host does nothing until run() or run_until() is called"]
#[derive(Default)]
pub struct Host {
    buses: Vec<Bus>,
    hooks: Vec<Hook>,
    restart: RestartPolicy,
    patience: Option<Duration>,
    on_ready: Option<Box<dyn FnOnce() + Send>>,
    on_liveness: Option<Box<dyn FnMut(&Liveness) + Send>>,
}

/// What becomes of a bus that ended with an error or a panic.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartPolicy {
    /// It is started again after these pauses; one that ran for longer than the longest pause begins with the first again.
    Restart(Backoff),
    /// It ends the host: the other buses are stopped, and its error is what [`Host::run_until`] returns.
    Never,
}

/// Restarts after 1 s, doubling up to 60 s.
impl Default for RestartPolicy {
    fn default() -> Self {
        Self::Restart(Backoff::doubling(limits::RESTART_PAUSE, limits::RESTART_PAUSE_MAX))
    }
}

/// A bus stopped to respond, or does again. Told once for each change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Liveness {
    /// The bus.
    pub bus: String,
    /// In what it is stuck; `None` when it responds again.
    pub stuck: Option<Stuck>,
}

/// What ended a host before it was told to stop, or went wrong when it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A bus ended and was not to be started again, or could not start in the first place.
    #[error("error BRD084: bus {bus:?} ended, and the host with it: {cause}\n  {remedy}")]
    Bus {
        /// The bus.
        bus: String,
        /// Why it ended.
        cause: BusError,
        /// What to do.
        remedy: &'static str,
    },
    /// A bus panicked and was not to be started again.
    #[error("error BRD084: bus {bus:?} panicked, and the host ended with it: {text}")]
    Panicked {
        /// The bus.
        bus: String,
        /// What the panic said.
        text: String,
    },
    /// A hook failed, panicked or took too long.
    #[error("error BRD085: the {when} hook {hook:?} failed: {cause}")]
    Hook {
        /// Its name.
        hook: String,
        /// `start` or `stop`.
        when: &'static str,
        /// Why.
        cause: Error,
    },
    /// The second signal came before the buses had stopped. Handlers were dropped and rolled back, stop hooks did not run.
    #[error(
        "error BRD086: a second signal ended the host at once; messages under way were rolled back and come again"
    )]
    Interrupted,
    /// The process cannot listen to signals.
    #[error("error BRD087: cannot listen to SIGTERM and SIGINT: {0}")]
    Signals(#[source] std::io::Error),
}

impl Host {
    /// A host without buses.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs this bus too. Keep a clone to ask it for its [`health`](Bus::health).
    pub fn bus(mut self, bus: Bus) -> Self {
        self.buses.push(bus);
        self
    }

    /// What becomes of a bus that ended with an error or a panic. Default: started again, after 1 s, doubling up to 60 s.
    ///
    /// A bus whose very first start fails for a reason that lasts (a schema that is missing, refused credentials, a queue that does
    /// not fit) always ends the host: such a deployment should fail where somebody looks, and not run by half. Once it has
    /// started it is started again whatever the reason. Nothing is started again while the host stops.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// Looks every quarter of `patience` whether a bus is stuck for longer than `patience`, logs when that changes and tells
    /// [`Host::on_liveness`]. Choose it longer than the slowest handler takes. Default: nobody looks.
    pub fn liveness(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Is told of each bus that gets stuck, once, and again when it responds. Must not block.
    pub fn on_liveness(mut self, tell: impl FnMut(&Liveness) + Send + 'static) -> Self {
        self.on_liveness = Some(Box::new(tell));
        self
    }

    /// Is called once, when every bus has started for the first time; at once when there is none. Must not block.
    pub fn on_ready(mut self, ready: impl FnOnce() + Send + 'static) -> Self {
        self.on_ready = Some(Box::new(ready));
        self
    }

    /// `start` runs before the buses start, `stop` after they ended, however they ended. Start hooks run in the order in which
    /// they were added, stop hooks in the reverse one. When a start hook fails, the stop hooks of those before it run and no bus
    /// starts. A stop hook that fails keeps no other from running. Each may take 30 s.
    pub fn hook<S, E>(
        mut self,
        name: impl Into<String>,
        start: impl FnOnce() -> S + Send + 'static,
        stop: impl FnOnce() -> E + Send + 'static,
    ) -> Self
    where
        S: Future<Output = Result<()>> + Send + 'static,
        E: Future<Output = Result<()>> + Send + 'static,
    {
        self.hooks.push(Hook::new(name.into(), start, stop));
        self
    }

    /// Runs until SIGTERM or SIGINT: the first one stops gracefully, a second one ends at once. On systems without signals
    /// Ctrl-C is the only one.
    ///
    /// # Errors
    /// As [`Host::run_until`], [`HostError::Interrupted`] after the second signal, [`HostError::Signals`] when the process
    /// cannot listen to them.
    pub async fn run(self) -> Result<(), HostError> {
        let mut signals = signals::Signals::listen().map_err(HostError::Signals)?;
        let stop = CancellationToken::new();
        let mut running = std::pin::pin!(self.run_until(stop.clone().cancelled_owned()));
        tokio::select! {
            ended = &mut running => return ended,
            name = signals.next() => tracing::info!(signal = name, "stopping"),
        }
        stop.cancel();
        tokio::select! {
            biased;
            ended = &mut running => ended,
            name = signals.next() => {
                tracing::warn!(signal = name, "ending at once");
                Err(HostError::Interrupted)
            }
        }
    }

    /// Runs the start hooks and the buses until `stop` is ready, then stops the buses, each within its grace period, and runs
    /// the stop hooks.
    ///
    /// Dropping the future ends all buses at once: handlers are dropped and roll back. Stop hooks do not run then.
    ///
    /// # Errors
    /// [`HostError`] when a bus ended it, or a hook failed. With more than one failure the first is returned and the others are
    /// logged.
    pub async fn run_until(self, stop: impl Future<Output = ()> + Send) -> Result<(), HostError> {
        let started = hooks::start(self.hooks).await?;
        let watched = liveness::watch(self.buses.clone(), self.patience, self.on_liveness);
        let running = supervise::run(self.buses, self.restart, self.on_ready, stop);
        let result = tokio::select! {
            result = running => result,
            never = watched => match never {},
        };
        let stopped = hooks::stop(started).await;
        if let (Err(_), Err(error)) = (&result, &stopped) {
            tracing::error!(%error, "stopping the host");
        }
        result.and(stopped)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("buses", &self.buses)
            .field("hooks", &self.hooks.iter().map(|hook| &hook.name).collect::<Vec<_>>())
            .field("restart", &self.restart)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// What a hook does.
type Action = Box<dyn FnOnce() -> BoxFuture<'static, Result<()>> + Send>;
