//! The decision log: what recovery knows of a transaction.

use std::time::Duration;

use async_trait::async_trait;

use super::{
    book::LogBook,
    core::{BranchKind, BranchState, Decision, Heuristic, Outcome, Protocol},
    ids::{CoordinatorId, Gid, ResourceId},
    label::Label,
};
use crate::error::Error;

/// A branch, as it is written down before anybody is asked to prepare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchRecord {
    /// What the caller calls it.
    pub name: String,
    /// Where it is.
    pub resource: ResourceId,
    /// What kind of thing that is.
    pub resource_type: String,
    /// What it can do.
    pub kind: BranchKind,
}

/// A transaction that is to be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTransaction {
    /// Its id.
    pub gid: Gid,
    /// What people call it.
    pub label: Label,
    /// A name is refused that one which was prepared had until so long ago.
    pub name_kept_for: Duration,
    /// How many rounds it has.
    pub protocol: Protocol,
    /// Whether the home database takes part with work of its own.
    pub home: bool,
    /// Undecided for longer than this, it is aborted.
    pub deadline: Duration,
    /// Who takes part.
    pub branches: Vec<BranchRecord>,
    /// Recovery finds every branch that was prepared by looking at its resource. The record may then be lost in a crash of the log's
    /// server: what is prepared and not in the log is rolled back.
    pub findable: bool,
}

/// A transaction as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its id.
    pub gid: Gid,
    /// What stands, if anything does.
    pub decision: Option<Decision>,
    /// Whether the home database takes part with work of its own.
    pub home: bool,
    /// How often recovery has taken it.
    pub attempts: u32,
    /// How long ago it began, by the log's clock.
    pub age: Duration,
    /// Whether it is over everywhere.
    pub finished: bool,
    /// Who takes part, and how far each is known to be.
    pub branches: Vec<(BranchRecord, BranchState)>,
}

/// How far a coordinator or a recovery came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// How it ended, as far as is known.
    pub outcome: Outcome,
    /// By place: where each branch is, and what it said.
    pub branches: Vec<(u16, BranchState, Option<String>)>,
    /// Whether a branch is left for recovery.
    pub pending: bool,
    /// When recovery takes it again, if something is left.
    pub again_in: Duration,
    /// Why a human has to look, if something is left that does not get done without one.
    pub needs_help: Option<String>,
    /// It may be lost in a crash of the log's server: recovery asks every branch once more, and each says that it is done.
    pub repeatable: bool,
}

/// The reason that is written when a transaction is aborted because nobody decided it for too long. What has it ends as
/// `cleaned_up`.
pub const STALE: &str = "stale_timeout";

/// Why the log could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It was not done.
    #[error("the decision log refused: {0}")]
    Refused(Error),
    /// It may have been done.
    #[error("the decision log did not answer: {0}")]
    Unknown(Error),
}

/// What becomes of transactions that somebody has to look after: named ones that wait, and those that are left lying.
#[async_trait]
pub trait LogCare: Send + Sync + 'static {
    /// Writes down that every branch of a named transaction is prepared, and lets it wait for so long. `read_only` are the places of
    /// the branches that have changed nothing. False: it was decided meanwhile.
    ///
    /// # Errors
    /// Nobody knows whether it waits.
    async fn keep_prepared(&self, gid: Gid, wait: Duration, read_only: &[u16]) -> Result<bool, LogError>;

    /// Up to `count` transactions that nobody has decided, begun longer ago than `age` and past their deadline.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn stale(&self, count: u32, age: Duration) -> Result<Vec<Known>, LogError>;

    /// Up to `count` transactions that are not over everywhere, decided or past their deadline, and begun longer ago than `age`.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn incomplete(&self, count: u32, age: Duration) -> Result<Vec<Known>, LogError>;

    /// Ends a decided transaction here although branches are left, as a hazard. False: it was over, or is not decided.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn abandon(&self, gid: Gid, why: &str) -> Result<bool, LogError>;

    /// Removes what was written down about people longer ago than this; how many entries.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn purge_audit(&self, kept_for: Duration) -> Result<u64, LogError>;
}

/// Where decisions are kept. All times are by its own clock.
#[async_trait]
pub trait DecisionLog: LogBook + LogCare {
    /// Which log this is. Asked once, at the start.
    ///
    /// # Errors
    /// When it cannot be reached or has no tables.
    async fn coordinator(&self) -> Result<CoordinatorId, LogError>;

    /// Writes down who takes part.
    ///
    /// # Errors
    /// Nobody may be asked to prepare then.
    async fn open(&self, transaction: &NewTransaction) -> Result<(), LogError>;

    /// Writes the decision unless there is one, and returns the one that stands. A transaction that is not in the log is aborted.
    /// `read_only` are the places of the branches that have changed nothing.
    ///
    /// # Errors
    /// Nobody knows which decision stands.
    async fn decide(
        &self,
        gid: Gid,
        decision: Decision,
        read_only: &[u16],
        reason: &str,
    ) -> Result<Decision, LogError>;

    /// Writes how far it came.
    ///
    /// # Errors
    /// Recovery finds out again then.
    async fn close(&self, gid: Gid, closing: &Closing) -> Result<(), LogError>;

    /// Up to `count` transactions that are due, so that nobody else takes them for `lease`.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn claim(&self, count: u32, lease: Duration) -> Result<Vec<Known>, LogError>;

    /// One transaction.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn load(&self, gid: Gid) -> Result<Option<Known>, LogError>;

    /// Writes down that something happened, for people.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn note(&self, gid: Gid, event: &str, data: &str) -> Result<(), LogError>;

    /// Up to `count` transactions that ended longer ago than `kept_for`.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn finished(&self, count: u32, kept_for: Duration) -> Result<Vec<Known>, LogError>;

    /// Forgets a transaction that is over everywhere.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn purge(&self, gid: Gid) -> Result<(), LogError>;
}

/// As the log spells where a branch is.
#[must_use]
pub fn spelled(state: BranchState) -> &'static str {
    match state {
        BranchState::Registered => "registered",
        BranchState::Preparing => "preparing",
        BranchState::Prepared => "prepared",
        BranchState::ReadOnly => "read_only",
        BranchState::Refused => "refused",
        BranchState::Unknown => "prepare_failed",
        BranchState::Committed => "committed",
        BranchState::CommitFailed => "commit_failed",
        BranchState::RolledBack => "rolled_back",
        BranchState::RollbackFailed => "rollback_failed",
        BranchState::Heuristic(heuristic) => heuristic_status(heuristic),
    }
}

/// Reads what [`spelled`] wrote. What a later version wrote is not final: recovery asks the branch.
#[must_use]
pub fn read(text: &str) -> BranchState {
    match text {
        "read_only" => BranchState::ReadOnly,
        "refused" => BranchState::Refused,
        "committed" => BranchState::Committed,
        "rolled_back" => BranchState::RolledBack,
        "heuristic_commit" => BranchState::Heuristic(Heuristic::Committed),
        "heuristic_rollback" => BranchState::Heuristic(Heuristic::RolledBack),
        "heuristic_mixed" => BranchState::Heuristic(Heuristic::Mixed),
        "heuristic_hazard" => BranchState::Heuristic(Heuristic::Hazard),
        _ => BranchState::Registered,
    }
}

/// As the log spells a heuristic end, of a branch or of a transaction.
#[must_use]
pub fn heuristic_status(heuristic: Heuristic) -> &'static str {
    match heuristic {
        Heuristic::Committed => "heuristic_commit",
        Heuristic::RolledBack => "heuristic_rollback",
        Heuristic::Mixed => "heuristic_mixed",
        Heuristic::Hazard => "heuristic_hazard",
    }
}
