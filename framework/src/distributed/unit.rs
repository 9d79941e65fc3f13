//! The unit of work over several databases.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as Lock, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::Mutex;

use super::{
    access::Action,
    coordinator::Coordinator,
    core::{BranchKind, Decision, Input, Outcome, Phase, Protocol, Refusal, State},
    error::DistributedError,
    home::Home,
    ids::Gid,
    label::Label,
    log::BranchRecord,
    machine::{Machine, Part},
    participant::{EventBranch, RmError},
    status::{Seen, TransactionStatus},
    watch::Watch,
};
use crate::{error::panic_text, limits};

mod enlist;
mod keep;
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod once;
mod scope;

/// The place of a participant in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParticipantId(pub usize);

/// How a transaction committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// Branches that have not confirmed it. The decision stands, and recovery completes them.
    pub pending: Vec<ParticipantId>,
}

/// A unit of work whose branches in several databases end the same way.
///
/// Register who takes part, [`begin`](Self::begin), work, and [`commit`](Self::commit) or [`rollback`](Self::rollback_all); or let
/// [`run`](Self::run) do it. Each phase runs in a task of its own: dropping the future that waits for it interrupts nothing.
/// Dropped undecided, the transaction is rolled back in the background.
pub struct DistributedUnitOfWork {
    coordinator: Coordinator,
    gid: Gid,
    protocol: Protocol,
    label: Label,
    deadline: Option<Duration>,
    home: Option<Arc<dyn Home>>,
    parts: Vec<Part>,
    /// Who takes part, for the status.
    records: Vec<BranchRecord>,
    /// Those of them that take events.
    events: BTreeMap<ParticipantId, Arc<dyn EventBranch>>,
    /// What the phases work on, once it has begun.
    machine: Option<Arc<Mutex<Machine>>>,
    seen: Arc<Lock<Seen>>,
}

impl DistributedUnitOfWork {
    /// A transaction with a fresh id, two phases and nobody in it.
    #[must_use]
    pub fn new(coordinator: &Coordinator) -> Self {
        Self {
            coordinator: coordinator.clone(),
            gid: Gid::fresh(),
            protocol: Protocol::TwoPhase,
            label: Label::default(),
            deadline: None,
            home: None,
            parts: Vec::new(),
            records: Vec::new(),
            events: BTreeMap::new(),
            machine: None,
            seen: Arc::new(Lock::new(Seen::new(State::new(Protocol::TwoPhase, false, &[])))),
        }
    }

    /// Takes an id that was used to open its branches.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(crate) fn with_id(mut self, gid: Gid) -> Self {
        self.gid = gid;
        self
    }

    /// Chooses the protocol, before it begins.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// How long it may be undecided before recovery aborts it, before it begins. Default:
    /// [`Settings::deadline`](super::Settings::deadline).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// What is written down about it, before it begins.
    #[must_use]
    pub fn label(mut self, label: Label) -> Self {
        self.label = label;
        self
    }

    /// The id of the transaction, known before it begins.
    #[must_use]
    pub fn transaction_id(&self) -> Gid {
        self.gid
    }

    /// The home unit of work: its COMMIT is the decision. Its database must be that of the log.
    ///
    /// # Errors
    /// When the transaction has begun, or has another commit point.
    pub fn register_home(&mut self, home: impl Home) -> Result<(), DistributedError> {
        self.refuse_begun()?;
        let last = self.parts.iter().find(|part| part.record.kind == BranchKind::Last);
        if let Some(last) = last {
            return Err(DistributedError::TwoCommitPoints { name: last.record.name.clone() });
        }
        if self.home.is_some() {
            return Err(DistributedError::TwoCommitPoints { name: "home".to_owned() });
        }
        self.home = Some(Arc::new(home));
        Ok(())
    }

    /// Asks the policy, under the transaction's name or id.
    async fn allowed(&self, action: Action) -> Result<(), DistributedError> {
        let who = self.label.principal.as_ref().unwrap_or(&self.coordinator.0.settings.principal);
        let name = self.label.name.as_ref().map_or_else(|| self.gid.to_string(), ToString::to_string);
        self.coordinator.allowed(who, action, &name, Some(self.gid)).await
    }

    fn refuse_begun(&self) -> Result<(), DistributedError> {
        if self.machine.is_some() { Err(DistributedError::AlreadyBegun) } else { Ok(()) }
    }

    /// Writes down who takes part and opens every branch.
    ///
    /// # Errors
    /// When the log, the home or a branch fails, everything is rolled back then; or when the policy or the circuit breaker says no.
    pub async fn begin(&mut self) -> Result<(), DistributedError> {
        self.refuse_begun()?;
        self.allowed(Action::Begin).await?;
        let tickets = self.coordinator.0.start(self.parts.iter().map(|part| &part.record.resource))?;
        let parts = std::mem::take(&mut self.parts);
        let kinds: Vec<_> = parts.iter().map(|part| part.record.kind).collect();
        let core = State::new(self.protocol, self.home.is_some(), &kinds);
        let records = parts.iter().map(|part| part.record.clone());
        let watch = Watch::new(self.gid, &self.label, records, self.coordinator.0.settings.slow_after);
        let machine = Machine {
            watch: watch.reporting(&self.coordinator.0.settings.monitor, tickets),
            shared: Arc::clone(&self.coordinator.0),
            gid: self.gid,
            label: self.label.clone(),
            deadline: self.deadline.unwrap_or(self.coordinator.0.settings.deadline),
            core,
            said: vec![None; parts.len()],
            parts,
            home: self.home.clone(),
            cause: None,
            reason: None,
            attempts: None,
            stale: false,
            needs_help: false,
            seen: Arc::clone(&self.seen),
        };
        self.machine = Some(Arc::new(Mutex::new(machine)));
        self.phase(|machine| {
            async move {
                // The log and the branches at the same time: what has to wait for the log is the first prepare. What is itself a
                // commit point comes after them: it may hold the only connection, or the lock, that the log needs.
                let opening = open(machine, BranchKind::TwoPhase);
                let (recorded, mut opened) = tokio::join!(machine.drive(Input::Begin), opening);
                recorded?;
                if machine.core.phase != Phase::Active {
                    close(machine, &opened).await;
                    let reason = machine.cause.take().unwrap_or_default();
                    return Err(DistributedError::Aborted { gid: machine.gid, reason });
                }
                if opened.iter().all(|(_, opened)| opened.is_ok()) {
                    opened.extend(open(machine, BranchKind::Last).await);
                }
                for (at, _) in opened.iter().filter(|(_, opened)| opened.is_err()) {
                    machine.watch.not_opened(*at);
                }
                let opened = match opened.into_iter().try_for_each(|(_, opened)| opened) {
                    Ok(()) => open_home(machine).await,
                    failed => failed,
                };
                if opened.is_err() {
                    machine.drive(Input::Rollback).await?;
                }
                opened
            }
            .boxed()
        })
        .await
    }

    /// Asks every branch to prepare, all at once. True when all of them can commit; roll back when it is false.
    ///
    /// # Errors
    /// When it is not its turn.
    pub async fn prepare_all(&self) -> Result<bool, DistributedError> {
        self.phase(|machine| {
            async move {
                if machine.parts.is_empty() && machine.home.is_none() {
                    tracing::warn!(target: "transactions", gid = %machine.gid, "a distributed transaction without participants");
                }
                machine.drive(Input::Prepare).await?;
                Ok(machine.core.phase == Phase::Prepared)
            }
            .boxed()
        })
        .await
    }

    /// The second round of the three-phase protocol. Roll back when it is false.
    ///
    /// # Errors
    /// When it is not its turn.
    pub async fn pre_commit_all(&self) -> Result<bool, DistributedError> {
        self.phase(|machine| {
            async move {
                machine.drive(Input::PreCommit).await?;
                Ok(machine.core.phase == Phase::PreCommitted)
            }
            .boxed()
        })
        .await
    }

    /// Decides to commit, and tells every branch. True when all of them have confirmed it; false when the decision stands and
    /// recovery completes some.
    ///
    /// # Errors
    /// [`DistributedError::Aborted`], [`DistributedError::InDoubt`] and [`DistributedError::HeuristicMixed`], or when it is not its
    /// turn.
    pub async fn commit_all(&self) -> Result<bool, DistributedError> {
        self.allowed(Action::Commit).await?;
        let report = self.phase(|machine| {
            async move {
                machine.drive(Input::Commit).await?;
                ended(machine)
            }
            .boxed()
        });
        Ok(report.await?.pending.is_empty())
    }

    /// Decides to roll back, and tells every branch that may be prepared. True when all of them have confirmed it.
    ///
    /// # Errors
    /// When the decision to commit stands, or nobody knows: nothing is undone then.
    pub async fn rollback_all(&self) -> Result<bool, DistributedError> {
        self.allowed(Action::Rollback).await?;
        self.undo().await
    }

    async fn undo(&self) -> Result<bool, DistributedError> {
        self.phase(|machine| {
            async move {
                machine.drive(Input::Rollback).await?;
                match ended(machine) {
                    Err(DistributedError::Aborted { .. }) => Ok(machine.core.pending().next().is_none()),
                    other => other.map(|report| report.pending.is_empty()),
                }
            }
            .boxed()
        })
        .await
    }

    /// Prepares, and commits or rolls back.
    ///
    /// # Errors
    /// As [`Self::commit_all`].
    pub async fn commit(&self) -> Result<CommitReport, DistributedError> {
        self.allowed(Action::Commit).await?;
        self.phase(|machine| {
            async move {
                if machine.core.phase == Phase::Active {
                    machine.drive(Input::Prepare).await?;
                }
                if machine.core.phase == Phase::Prepared && machine.core.protocol == Protocol::ThreePhase {
                    machine.drive(Input::PreCommit).await?;
                }
                let call = if machine.core.phase == Phase::Doomed { Input::Rollback } else { Input::Commit };
                machine.drive(call).await?;
                ended(machine)
            }
            .boxed()
        })
        .await
    }

    /// Where it is.
    #[must_use]
    pub fn status(&self) -> TransactionStatus {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.machine.is_none() {
            let kinds: Vec<_> = self.records.iter().map(|record| record.kind).collect();
            seen = Seen::new(State::new(self.protocol, self.home.is_some(), &kinds));
        }
        seen.status(self.gid, self.coordinator.id(), &self.records)
    }

    /// Runs one phase in a task of its own, so that nobody interrupts it by not waiting for it.
    async fn phase<T: Send + 'static>(
        &self,
        work: impl for<'a> FnOnce(&'a mut Machine) -> BoxFuture<'a, Result<T, DistributedError>> + Send + 'static,
    ) -> Result<T, DistributedError> {
        let Some(machine) = self.machine.clone() else { return Err(Refusal::NotBegun.into()) };
        let phase = async move {
            let mut machine = machine.lock().await;
            work(&mut machine).await
        };
        match self.coordinator.0.tasks.spawn(phase).await {
            Ok(answer) => answer,
            Err(ended) => {
                let reason = match ended.try_into_panic() {
                    Ok(panic) => panic_text(panic.as_ref()).to_owned(),
                    Err(ended) => ended.to_string(),
                };
                Err(DistributedError::Panicked { gid: self.gid, reason })
            }
        }
    }
}

async fn open_home(machine: &Machine) -> Result<(), DistributedError> {
    match &machine.home {
        Some(home) => home.begin().await.map_err(DistributedError::Home),
        None => Ok(()),
    }
}

type Opened = Vec<(usize, Result<(), DistributedError>)>;

/// Opens the branches of this kind, all at once; by place, how that went.
fn open(machine: &Machine, kind: BranchKind) -> impl Future<Output = Opened> + Send + 'static {
    let open = |(at, part): (usize, &Part)| {
        let (participant, name) = (Arc::clone(&part.participant), part.record.name.clone());
        let branch = machine.branch(at);
        async move {
            let opened = tokio::time::timeout(limits::CALL_TIMEOUT, participant.begin(&branch)).await;
            let opened = opened.unwrap_or_else(|_| Err(RmError::Retryable("no answer in time".to_owned())));
            (at, opened.map_err(|cause| DistributedError::Branch { name, cause }))
        }
    };
    let chosen = machine.parts.iter().enumerate().filter(|(_, part)| part.record.kind == kind);
    futures::future::join_all(chosen.map(open).collect::<Vec<_>>())
}

/// Rolls back what was opened for a transaction that the log did not take: nobody was asked to prepare.
async fn close(machine: &Machine, opened: &Opened) {
    for (at, _) in opened.iter().filter(|(_, opened)| opened.is_ok()) {
        let Some(part) = machine.parts.get(*at) else { continue };
        let (gid, branch, id) = (machine.gid, part.record.name.as_str(), machine.branch(*at));
        let closed = part.participant.rollback(&id);
        if !matches!(tokio::time::timeout(limits::CALL_TIMEOUT, closed).await, Ok(Ok(_))) {
            tracing::warn!(target: "transactions", %gid, branch, "not rolled back: it ends with its connection");
        }
    }
}

/// How a transaction ended, for the caller.
fn ended(machine: &Machine) -> Result<CommitReport, DistributedError> {
    let gid = machine.gid;
    let reason = machine.cause.clone().unwrap_or_else(|| "asked for".to_owned());
    match machine.core.phase {
        Phase::Ended(Outcome::Committed) => {
            Ok(CommitReport { pending: machine.core.pending().map(ParticipantId).collect() })
        }
        Phase::Ended(Outcome::Aborted) => Err(DistributedError::Aborted { gid, reason }),
        Phase::Ended(Outcome::Heuristic(heuristic)) => {
            let decision = machine.core.decision.unwrap_or(Decision::Abort);
            Err(DistributedError::HeuristicMixed { gid, heuristic, decision, reason })
        }
        _ => Err(DistributedError::InDoubt { gid, reason }),
    }
}
