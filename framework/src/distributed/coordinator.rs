//! What all transactions of a process share: the log, the databases that take part, and the bounds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;

use super::{
    error::DistributedError,
    ids::{CoordinatorId, Gid, ResourceId},
    log::DecisionLog,
    participant::Resource,
};
use crate::limits;

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
    /// Phases that run, whoever still waits for them.
    pub(super) tasks: TaskTracker,
}

impl Coordinator {
    /// A coordinator on `log`, with the databases that can take part.
    ///
    /// # Errors
    /// When two resources have one name, or the log cannot be reached or has no tables.
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
        let id = log.coordinator().await?;
        Ok(Self(Arc::new(Shared { log, id, resources: known, settings, tasks: TaskTracker::new() })))
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
    /// Tells people that something is wrong that nobody repairs by itself.
    pub(super) fn alert(&self, gid: Gid, what: &str) {
        tracing::error!(target: "transactions", %gid, what, "a distributed transaction needs attention");
        if let Some(hook) = &self.settings.on_alert {
            hook(gid, what);
        }
    }
}
