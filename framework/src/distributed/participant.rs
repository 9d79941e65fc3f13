//! What takes part in a distributed transaction, and the databases behind it.

use std::time::Duration;

use async_trait::async_trait;

use super::core::BranchKind;
pub use super::core::{Decision, Heuristic};
use super::ids::{BranchId, CoordinatorId, ResourceId};
use crate::event_store::{EventStoreError, StagedAppend};

/// What a participant says when it is asked to prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vote {
    /// It can commit, whatever happens to this process.
    Prepared,
    /// It has changed nothing, and is finished.
    ReadOnly,
    /// It cannot commit, and has rolled back.
    No {
        /// Why.
        reason: String,
    },
}

/// What a participant says when it is told to commit or to roll back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It has done so, now or before.
    Done,
    /// It had ended in another way, by itself or by hand. Reported, and never repaired silently.
    Heuristic(Heuristic),
}

/// Why a participant could not do or answer something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RmError {
    /// Not now: it will work later without anybody's help.
    #[error("{0}")]
    Retryable(String),
    /// Nobody knows whether it was done.
    #[error("{0}; it may have been done")]
    Unknown(String),
    /// Somebody has to change a setting or a right. Tried again all the same, at a low rate.
    #[error("{0}")]
    Config(String),
    /// It will never work.
    #[error("{0}")]
    Permanent(String),
}

/// How a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it can take part in transactions now.
    pub healthy: bool,
    /// What it said, or what is wrong and how to mend it.
    pub detail: String,
    /// How long the answer took.
    pub latency: Duration,
}

/// How much of what a database has room for is taken by prepared transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Prepared transactions of the whole server, whoever's they are.
    pub used: u64,
    /// How many it has room for, where there is such a bound.
    pub room: Option<u64>,
    /// The age of the oldest one of this database, where it can be known.
    pub oldest: Option<Duration>,
}

/// One branch of one transaction, in the process that runs it.
///
/// `prepare`, `commit` and `rollback` may be called several times, and `rollback` also for a branch that was never prepared; they must
/// not fail because there is nothing left to do. What has prepared never says no afterwards. Calls of one branch are never
/// concurrent, but any of them may be dropped before it has answered. `barid::testing` has a suite that checks all of it.
#[async_trait]
pub trait TransactionParticipant: Send + Sync + 'static {
    /// The database behind it: recovery completes the branch through the [`Resource`] of that name.
    fn resource_id(&self) -> &ResourceId;

    /// For status and logs: `postgres`, `closure`.
    fn resource_type(&self) -> &'static str;

    /// What it can do. A [`BranchKind::Last`] is never asked to prepare: its `commit` is the commit point.
    fn kind(&self) -> BranchKind {
        BranchKind::TwoPhase
    }

    /// Opens the branch: from now on work can be done in it. Called at most once; a branch that was never opened can be rolled back.
    ///
    /// # Errors
    /// Any error makes the transaction fail before it has begun.
    async fn begin(&self, branch: &BranchId) -> Result<(), RmError>;

    /// Makes the branch durable without committing it.
    ///
    /// # Errors
    /// Every error means that the branch may be prepared or not; a refusal is [`Vote::No`].
    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError>;

    /// The second round of the three-phase protocol: whether it can still be reached.
    ///
    /// # Errors
    /// Any error makes the transaction roll back.
    async fn pre_commit(&self, _: &BranchId) -> Result<(), RmError> {
        Ok(())
    }

    /// Commits. For a prepared branch this must succeed sooner or later.
    ///
    /// # Errors
    /// Recovery tries again.
    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError>;

    /// Rolls back, prepared or not, and makes sure that it cannot be prepared or committed afterwards.
    ///
    /// # Errors
    /// Recovery tries again.
    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError>;

    /// Lets go of a prepared branch that others end by its name, such as of the session that has prepared it. Cannot fail: what is
    /// not let go of now is when the participant is dropped.
    async fn leave(&self) {}
}

/// A branch that takes events: an event store that takes part.
#[async_trait]
pub trait EventBranch: TransactionParticipant {
    /// Adds events to a stream, behind those that were added before. After an error the branch votes no: nothing commits without
    /// events that were refused.
    ///
    /// # Errors
    /// [`EventStoreError::NotOpen`] when it has not begun or is prepared; [`EventStoreError::Conflict`] and the like when
    /// it is known already that they cannot be appended. What shows only later makes the branch vote no.
    async fn add_events(&self, append: StagedAppend) -> Result<(), EventStoreError>;
}

/// A database that takes part: what recovery needs of it, in a process that knows nothing of the transaction.
///
/// Everything here may be called by several processes at once.
#[async_trait]
pub trait Resource: Send + Sync + 'static {
    /// Its name.
    fn id(&self) -> &ResourceId;

    /// The branches of this log that are prepared there now.
    ///
    /// # Errors
    /// A failed look is not an empty one.
    async fn prepared(&self, coordinator: CoordinatorId) -> Result<Vec<BranchId>, RmError>;

    /// Commits or rolls back a branch that this process may know nothing of.
    ///
    /// # Errors
    /// Recovery tries again.
    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError>;

    /// Removes what the branch left behind for recovery. Called after the transaction is over everywhere.
    ///
    /// # Errors
    /// Tried again with the next retention.
    async fn forget(&self, branch: &BranchId) -> Result<(), RmError>;

    /// Whether it can take part.
    async fn health(&self) -> Health;

    /// How many prepared transactions there are. Nothing, where that means nothing.
    ///
    /// # Errors
    /// When the database does not answer: nothing is known then.
    async fn pressure(&self) -> Result<Pressure, RmError> {
        Ok(Pressure::default())
    }
}
