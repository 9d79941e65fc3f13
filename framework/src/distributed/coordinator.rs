//! What all transactions of a process share: the log, the databases that take part, and the bounds.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::task::TaskTracker;

use super::{
    access::{Access, Principal},
    alarms::{Alarms, ThresholdHook, Thresholds},
    breaker::{Breakers, CircuitBreakerOpen, Tickets},
    error::DistributedError,
    ids::{BranchId, CoordinatorId, Gid, ResourceId},
    log::DecisionLog,
    monitor::TransactionMonitor,
    participant::Resource,
    retrying::TransactionRetry,
};
use crate::{Circuit, CircuitBreaker, Error, limits, store::contention};

/// How long the phases of a transaction may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseTimeouts {
    /// Until a branch that has not voted may be prepared or not, and the transaction rolls back. Default: 30 s.
    pub prepare: Duration,
    /// The same for the second round of the three-phase protocol. Default: 30 s.
    pub pre_commit: Duration,
    /// Until a branch that was told to commit is left to recovery. Default: 60 s.
    pub commit: Duration,
    /// Until a branch that was told to roll back is left to recovery. Default: 30 s.
    pub abort: Duration,
}

impl Default for PhaseTimeouts {
    fn default() -> Self {
        Self {
            prepare: limits::DISTRIBUTED_PREPARE_WAIT,
            pre_commit: limits::DISTRIBUTED_PREPARE_WAIT,
            commit: limits::DISTRIBUTED_COMMIT_WAIT,
            abort: limits::DISTRIBUTED_ABORT_WAIT,
        }
    }
}

/// Called with the transaction and what is wrong with it, when a human has to look.
pub type AlertHook = Arc<dyn Fn(Gid, &str) + Send + Sync>;

/// The bounds of a coordinator.
#[derive(Clone)]
pub struct Settings {
    /// The bounds of the phases.
    pub timeouts: PhaseTimeouts,
    /// Undecided for longer than this, a transaction is aborted by recovery. By the clock of the home database. Default: 60 s.
    pub deadline: Duration,
    /// The pause between two looks of recovery. Default: 5 s.
    pub recover_every: Duration,
    /// How long a transaction that recovery has taken is left alone by the other processes. Default: 60 s.
    pub lease: Duration,
    /// How long transactions that are over stay in the log. Default: 7 days.
    pub kept_for: Duration,
    /// Called for heuristic outcomes, and for branches that recovery cannot complete without help.
    pub on_alert: Option<AlertHook>,
    /// When somebody is told how many transactions are open, in doubt, or prepared for long.
    pub thresholds: Thresholds,
    /// Called when one of these is crossed, and when it is well again.
    pub on_threshold: Option<ThresholdHook>,
    /// Lists the transactions of this process and counts them. Default: one of its own.
    pub monitor: TransactionMonitor,
    /// Refuses to begin transactions while too many fail: all of them, and those over a database that does not answer. What is
    /// decided is completed all the same. Default: off.
    pub breaker: Option<CircuitBreaker>,
    /// Branches that were prepared for longer than this before it was decided how they end are logged. Default: 5 s.
    pub slow_after: Duration,
    /// Who may do what; what is denied is written into the log. Default: everybody may do everything.
    pub access: Access,
    /// Who this process is, where nobody else is named. Default: `process`.
    pub principal: Principal,
    /// Undecided for longer than this, a transaction that is past its deadline is cleaned up. Also how long a named transaction
    /// waits for its commit, unless it says otherwise. Default: 24 h.
    pub stale_after: Duration,
    /// Decided, or past its deadline, and not over everywhere for longer than this, a transaction is incomplete: it is tried at
    /// once, and somebody is told. Default: 1 h.
    pub incomplete_after: Duration,
    /// The pause between two clean-ups of these, and of what is over for longer than it is kept. Default: 1 h.
    pub clean_every: Duration,
    /// How long the name of a transaction that was prepared stays taken after its end. Default: 24 h.
    pub name_kept_for: Duration,
    /// How whole transactions are tried again by [`Coordinator::retrying`], and compensations of external stages. Default: 3 tries,
    /// with pauses of 1 s and 2 s.
    pub retry: TransactionRetry,
    /// How long it is kept who did what. Default: 365 days.
    pub audit_kept_for: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeouts: PhaseTimeouts::default(),
            deadline: limits::DISTRIBUTED_DEADLINE,
            recover_every: limits::DISTRIBUTED_RECOVER_EVERY,
            lease: limits::DISTRIBUTED_LEASE,
            kept_for: limits::RECORDS_KEPT_FOR,
            on_alert: None,
            thresholds: Thresholds::default(),
            on_threshold: None,
            monitor: TransactionMonitor::new(),
            breaker: None,
            slow_after: limits::DISTRIBUTED_SLOW_AFTER,
            access: Access::default(),
            principal: Principal::new("process"),
            stale_after: limits::DISTRIBUTED_STALE_AFTER,
            incomplete_after: limits::DISTRIBUTED_INCOMPLETE_AFTER,
            clean_every: limits::DISTRIBUTED_CLEAN_EVERY,
            retry: TransactionRetry::default(),
            name_kept_for: limits::DISTRIBUTED_NAME_KEPT_FOR,
            audit_kept_for: limits::DISTRIBUTED_AUDIT_KEPT_FOR,
        }
    }
}

/// Coordinates the distributed transactions of a process. Cheap to clone; made once, at the start.
///
/// Every process on one log should know every resource: recovery completes what any of them began.
#[derive(Clone)]
pub struct Coordinator(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) log: Arc<dyn DecisionLog>,
    pub(super) id: CoordinatorId,
    pub(super) resources: BTreeMap<ResourceId, Arc<dyn Resource>>,
    pub(super) settings: Settings,
    pub(super) breakers: Option<Breakers>,
    pub(super) alarms: Alarms,
    /// Orphans that could not be ended and that people were told about.
    pub(super) told: Mutex<HashSet<BranchId>>,
    /// Phases that run, whoever still waits for them.
    pub(super) tasks: TaskTracker,
}

impl Coordinator {
    /// A coordinator on `log`, with the databases that can take part.
    ///
    /// # Errors
    /// When two resources have one name, the settings cannot be used, or the log cannot be reached or has no tables.
    pub async fn connect(
        log: Arc<dyn DecisionLog>,
        resources: impl IntoIterator<Item = Arc<dyn Resource>>,
        settings: Settings,
    ) -> Result<Self, DistributedError> {
        let mut known: BTreeMap<ResourceId, Arc<dyn Resource>> = BTreeMap::new();
        for resource in resources {
            let id = resource.id().clone();
            if known.insert(id.clone(), resource).is_some() {
                return Err(DistributedError::SameResource(id));
            }
        }
        let breakers = settings.breaker.map(|breaker| Breakers::new(breaker, known.keys())).transpose();
        let breakers = breakers
            .map_err(|problem| DistributedError::Settings(format!("the circuit breaker: {problem}")))?;
        let id = log.coordinator().await?;
        let alarms = Alarms::default();
        let (told, tasks) = (Mutex::default(), TaskTracker::new());
        Ok(Self(Arc::new(Shared { log, id, resources: known, settings, breakers, alarms, told, tasks })))
    }

    /// Runs a whole transaction, and once more when nothing of it stays and another try can go better: it was rolled back, or lost
    /// against another one. Each try builds a transaction of its own; what makes them one is the application's idempotency key.
    /// An outcome that is not known is never tried again.
    ///
    /// # Errors
    /// The error of the last try, as it is.
    pub async fn retrying<T, F: Future<Output = Result<T, Error>>>(
        &self,
        transaction: impl FnMut(u32) -> F,
    ) -> Result<T, Error> {
        let again = |error: &Error| match error.find::<DistributedError>() {
            Some(ended) => ended.is_retryable(),
            None => contention::lost_a_race(error),
        };
        self.0.settings.retry.run(again, transaction).await
    }

    /// Whether transactions are begun: all of them, or those over one database. `None` without a circuit breaker.
    #[must_use]
    pub fn circuit(&self, resource: Option<&ResourceId>) -> Option<Circuit> {
        self.0.breakers.as_ref()?.circuit(resource)
    }

    /// What the transactions of this process are doing.
    #[must_use]
    pub fn monitor(&self) -> &TransactionMonitor {
        &self.0.settings.monitor
    }

    /// Which log decides.
    #[must_use]
    pub fn id(&self) -> CoordinatorId {
        self.0.id
    }

    /// Whether a branch on this resource can be completed by recovery.
    #[must_use]
    pub fn knows(&self, resource: &ResourceId) -> bool {
        self.0.resources.contains_key(resource)
    }

    /// Waits until no phase of this process is under way, at most for the longest phase. Called before the process ends; what
    /// has not ended then is completed by recovery.
    pub async fn drain(&self) {
        self.0.tasks.close();
        let bound = self.0.settings.timeouts.commit + limits::CALL_TIMEOUT;
        if tokio::time::timeout(bound, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(phases = self.0.tasks.len(), "distributed transactions are left to recovery");
        }
        self.0.tasks.reopen();
    }
}

impl Shared {
    /// Asks the circuit breakers before a transaction over these databases begins.
    pub(super) fn start<'a>(
        &self,
        resources: impl Iterator<Item = &'a ResourceId>,
    ) -> Result<Tickets, CircuitBreakerOpen> {
        self.breakers.as_ref().map_or_else(|| Ok(Tickets::new()), |breakers| breakers.start(resources))
    }

    /// Whether nobody was told of an orphan yet: it is found again every few seconds.
    pub(super) fn is_news(&self, orphan: &BranchId) -> bool {
        // Every change of it is one call.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= limits::DISTRIBUTED_LIST_MAX as usize {
            told.clear();
        }
        told.insert(*orphan)
    }

    /// Tells people that something is wrong that nobody repairs by itself.
    pub(super) fn alert(&self, gid: Gid, what: &str) {
        tracing::error!(target: "transactions", %gid, what, "a distributed transaction needs attention");
        if let Some(hook) = &self.settings.on_alert {
            hook(gid, what);
        }
    }
}
