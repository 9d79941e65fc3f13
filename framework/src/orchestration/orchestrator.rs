//! Starts sagas, and carries out those whose turn a process has.

use std::{collections::BTreeMap, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    core::Outcome,
    definition::{Defined, SagaDefinition},
    drive::{Drive, Left},
    error::OrchestrationError,
    handler::SagaId,
    log::{MANUAL, NewSaga, SagaCare, Started, Stored, Turn},
    measures,
};
use crate::{
    Backoff,
    error::{Error, panic_text},
    limits,
};

/// Called with the saga and what is wrong with it, when a human has to look.
pub type SagaAlertHook = Arc<dyn Fn(SagaId, &str) + Send + Sync>;

/// The bounds of an orchestrator.
#[derive(Clone)]
pub struct OrchestratorSettings {
    /// Who this process is, for people who look at who has a saga. Default: `process`.
    pub owner: String,
    /// Sagas that are carried out at the same time. Default: 16.
    pub at_once: usize,
    /// The pause between two looks for sagas that are due. Default: 1 s.
    pub poll: Duration,
    /// How much longer than its step may take a saga is kept from other processes. A process that dies holds up its sagas for this and
    /// the time of a step. Default: 15 s.
    pub lease_margin: Duration,
    /// How long sagas that are over stay, and with them the markers of their steps: longer than anything can be under way. Default:
    /// 7 days.
    pub kept_for: Duration,
    /// Called when a step can be neither done nor undone.
    pub on_alert: Option<SagaAlertHook>,
}

impl Default for OrchestratorSettings {
    fn default() -> Self {
        Self {
            owner: "process".to_owned(),
            at_once: limits::ORCHESTRATION_AT_ONCE,
            poll: limits::ORCHESTRATION_POLL,
            lease_margin: limits::ORCHESTRATION_LEASE_MARGIN,
            kept_for: limits::RECORDS_KEPT_FOR,
            on_alert: None,
        }
    }
}

/// How a saga ended, or why it does not end.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// Every step was done.
    Completed,
    /// A step could not be done, and what was done before it was undone.
    Compensated {
        /// Which step, and what it said.
        reason: String,
    },
    /// A step can be neither done nor undone: a human has to look. What was undone stays undone.
    NeedsHelp {
        /// Which steps, and what they said.
        reason: String,
    },
}

/// Carries out the sagas of its definitions. Cheap to clone; made once, at the start.
///
/// Every process that shares the log may have one. Sagas of names and versions that it was not given are left alone.
#[derive(Clone)]
pub struct Orchestrator(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) log: Arc<dyn SagaCare>,
    pub(super) defined: BTreeMap<(String, u32), Arc<Defined>>,
    pub(super) settings: OrchestratorSettings,
    /// Sagas that are being carried out, whoever still waits for them.
    pub(super) tasks: TaskTracker,
    pub(super) room: Arc<Semaphore>,
    /// There may be something to do.
    pub(super) wake: Notify,
    /// Nothing is begun any more.
    pub(super) closing: CancellationToken,
}

impl Shared {
    pub(super) fn lease(&self, work: Duration) -> Duration {
        work + self.settings.lease_margin
    }
}

/// Puts an [`Orchestrator`] together.
#[must_use]
pub struct OrchestratorBuilder {
    log: Arc<dyn SagaCare>,
    settings: OrchestratorSettings,
    defined: Vec<Result<Defined, OrchestrationError>>,
}

impl OrchestratorBuilder {
    /// A saga that this process can carry out. Of a name there may be several versions.
    pub fn saga<D>(mut self, definition: &SagaDefinition<D>) -> Self {
        self.defined.push(definition.check());
        self
    }

    /// Other bounds.
    pub fn settings(mut self, settings: OrchestratorSettings) -> Self {
        self.settings = settings;
        self
    }

    /// The orchestrator.
    ///
    /// # Errors
    /// The first definition that cannot be used, and why.
    pub fn build(self) -> Result<Orchestrator, OrchestrationError> {
        let mut defined = BTreeMap::new();
        for definition in self.defined {
            let definition = definition?;
            let (name, version) = (definition.name.clone(), definition.version);
            if defined.insert((name.clone(), version), Arc::new(definition)).is_some() {
                return Err(OrchestrationError::SameDefinition { name, version });
            }
        }
        Ok(Orchestrator(Arc::new(Shared {
            log: self.log,
            defined,
            room: Arc::new(Semaphore::new(self.settings.at_once.max(1))),
            settings: self.settings,
            tasks: TaskTracker::new(),
            wake: Notify::new(),
            closing: CancellationToken::new(),
        })))
    }
}

impl Orchestrator {
    /// Begins to put one together, on a log.
    pub fn builder(log: impl SagaCare) -> OrchestratorBuilder {
        let settings = OrchestratorSettings::default();
        OrchestratorBuilder { log: Arc::new(log), settings, defined: Vec::new() }
    }

    /// Writes down that a saga is to be done. [`run_until`](Self::run_until), here or in another process, does it.
    ///
    /// # Errors
    /// [`OrchestrationError::NotDefined`]; others when nobody knows whether it was started: start it again with the same id.
    pub async fn start(&self, saga: &NewSaga) -> Result<Started, OrchestrationError> {
        self.defined(&saga.name, saga.version)?;
        let started = self.0.log.start(saga).await?;
        self.0.wake.notify_one();
        Ok(started)
    }

    /// Starts a saga, unless it was started, and waits for its end.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`finish`](Self::finish).
    pub async fn execute(&self, saga: &NewSaga) -> Result<Ended, OrchestrationError> {
        self.start(saga).await?;
        self.finish(saga.id).await
    }

    /// Carries out a saga, or waits for whoever does, until it is over or a human has to look. Dropped before, the saga goes on.
    ///
    /// # Errors
    /// When there is no such saga, it is not defined here, or the log does not answer; the saga goes on all the same.
    pub async fn finish(&self, id: SagaId) -> Result<Ended, OrchestrationError> {
        let (first, max) = (limits::ORCHESTRATION_WAIT_PAUSE, limits::ORCHESTRATION_WAIT_PAUSE_MAX);
        let mut pauses = Backoff::doubling(first, max).start();
        loop {
            let stored = self.0.log.load(id).await?.ok_or(OrchestrationError::NotFound(id))?;
            if let Some(ended) = ended(&stored) {
                return Ok(ended);
            }
            let defined = self.defined(&stored.name, stored.version)?;
            let worked = match self.0.closing.is_cancelled() {
                false => self.take(id).await?,
                true => None,
            };
            if let Some((turn, stored, asked)) = worked {
                // In a task of its own: whoever stops waiting interrupts nothing.
                let ended = self.carry_on(defined, turn, stored, asked);
                match ended.await {
                    Ok(Some(Left::Pause(pause))) => tokio::time::sleep(pause.min(max)).await,
                    _ => tokio::task::yield_now().await,
                }
                pauses = Backoff::doubling(first, max).start();
            } else {
                tokio::time::sleep(pauses.pause()).await;
            }
        }
    }

    /// Begins nothing any more, and waits until what was begun is saved: as long as one attempt of a step takes. What is not over
    /// goes on in another process, or in the next one.
    pub async fn drain(&self) {
        self.0.closing.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    pub(super) fn defined(&self, name: &str, version: u32) -> Result<Arc<Defined>, OrchestrationError> {
        let found = self.0.defined.get(&(name.to_owned(), version)).cloned();
        found.ok_or_else(|| OrchestrationError::NotDefined { name: name.to_owned(), version })
    }

    pub(super) async fn take(
        &self,
        id: SagaId,
    ) -> Result<Option<(Turn, Stored, std::time::Instant)>, OrchestrationError> {
        let (owner, lease) = (&self.0.settings.owner, self.0.lease(Duration::ZERO));
        let asked = std::time::Instant::now();
        let taken = self.0.log.take(id, owner, lease).await?;
        Ok(taken.map(|(turn, stored)| (turn, stored, asked)))
    }

    /// Carries a saga on in a task of its own, which logs how it ended. `None`: it did not get to the end of its turn.
    pub(super) fn carry_on(
        &self,
        defined: Arc<Defined>,
        turn: Turn,
        stored: Stored,
        asked: std::time::Instant,
    ) -> tokio::task::JoinHandle<Option<Left>> {
        let shared = Arc::clone(&self.0);
        let drive = Drive::new(Arc::clone(&shared), Arc::clone(&defined), (turn, stored), asked);
        self.0.tasks.spawn(async move {
            let began = Instant::now();
            metrics::gauge!(measures::RUNNING).increment(1.0);
            let ended = AssertUnwindSafe(drive.run()).catch_unwind().await;
            metrics::gauge!(measures::RUNNING).decrement(1.0);
            let ended = ended.unwrap_or_else(|panic| {
                let said = format!("carrying it on panicked: {}", panic_text(panic.as_ref()));
                Err(OrchestrationError::Log(Error::new(said)))
            });
            shared.wake.notify_one();
            let saga = turn.saga;
            match ended {
                Ok(left) => {
                    tracing::debug!(target: "sagas", %saga, name = defined.name, ?left, took = ?began.elapsed(), "a turn is over");
                    if let Left::Over(outcome) = &left {
                        let (name, outcome) = (defined.name.clone(), outcome.as_str());
                        metrics::counter!(measures::ENDED, "saga" => name, "outcome" => outcome).increment(1);
                    }
                    Some(left)
                }
                // Whoever has the next turn goes on from what was saved.
                Err(error) => {
                    tracing::warn!(target: "sagas", %saga, name = defined.name, %error, "a turn ended early");
                    None
                }
            }
        })
    }
}

/// How a saga ended, if it did.
fn ended(stored: &Stored) -> Option<Ended> {
    let reason = || stored.error.clone().unwrap_or_default();
    match stored.outcome() {
        Some(Outcome::Completed) => Some(Ended::Completed),
        Some(Outcome::Compensated) => Some(Ended::Compensated { reason: reason() }),
        None => (stored.status == MANUAL).then(|| Ended::NeedsHelp { reason: reason() }),
    }
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator").field("sagas", &self.0.defined.keys()).finish_non_exhaustive()
    }
}
