//! What can be known of a transaction from the outside.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    core::{BranchState, Decision, Outcome, Phase, State},
    ids::{CoordinatorId, Gid},
    log::{BranchRecord, spelled},
};
use crate::clock;

/// Where a transaction is. Times are of this process and for people; nothing is decided by them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TransactionStatus {
    /// The transaction.
    pub transaction_id: String,
    /// The log that decides.
    pub coordinator_id: String,
    /// Where it is.
    pub status: TwoPhaseStatus,
    /// When it began.
    pub start_time: Option<DateTime<Utc>>,
    /// When everybody had voted.
    pub prepare_time: Option<DateTime<Utc>>,
    /// When the decision to commit stood.
    pub commit_time: Option<DateTime<Utc>>,
    /// When the decision to roll back stood.
    pub rollback_time: Option<DateTime<Utc>>,
    /// How many take part.
    pub participant_count: usize,
    /// How many have prepared, whatever came after.
    pub prepared_count: usize,
    /// How many have committed.
    pub committed_count: usize,
    /// How many have rolled back.
    pub rolled_back_count: usize,
    /// Each of them, by its place.
    pub participants: BTreeMap<usize, ParticipantStatus>,
}

/// Where a participant is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParticipantStatus {
    /// What the caller calls it.
    pub name: String,
    /// The kind of thing it is.
    pub resource_type: String,
    /// Where it is, as the log spells it.
    pub status: &'static str,
}

/// Where a transaction is, in the words of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TwoPhaseStatus {
    /// Not prepared, nothing asked.
    Init,
    /// The participants are being asked.
    Preparing,
    /// All of them can commit.
    Prepared,
    /// The decision to commit is being made or carried out.
    Committing,
    /// Committed; what is missing is completed by recovery.
    Committed,
    /// The decision to roll back is being made or carried out.
    RollingBack,
    /// Rolled back; what is missing is completed by recovery.
    RolledBack,
    /// Somebody cannot commit, nobody knows, or the outcome is mixed.
    Failed,
}

impl From<Phase> for TwoPhaseStatus {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::New | Phase::Recording | Phase::Active => Self::Init,
            Phase::Preparing => Self::Preparing,
            Phase::Prepared | Phase::PreCommitting | Phase::PreCommitted => Self::Prepared,
            Phase::AskingLast | Phase::Deciding(Decision::Commit) | Phase::Committing => Self::Committing,
            Phase::Deciding(Decision::Abort) | Phase::RollingBack => Self::RollingBack,
            Phase::Ended(Outcome::Committed) => Self::Committed,
            Phase::Ended(Outcome::Aborted) => Self::RolledBack,
            Phase::Doomed | Phase::Ended(Outcome::InDoubt | Outcome::Heuristic(_)) => Self::Failed,
        }
    }
}

/// What can be looked at while a phase runs.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) core: State,
    started: Option<DateTime<Utc>>,
    prepared: Option<DateTime<Utc>>,
    committed: Option<DateTime<Utc>>,
    rolled_back: Option<DateTime<Utc>>,
}

impl Seen {
    pub(super) fn new(core: State) -> Self {
        Self { core, started: None, prepared: None, committed: None, rolled_back: None }
    }

    /// Takes over what has changed.
    pub(super) fn look(&mut self, core: &State) {
        let now = clock::now();
        self.core = core.clone();
        self.started.get_or_insert(now);
        match core.phase {
            Phase::Prepared => _ = self.prepared.get_or_insert(now),
            Phase::Committing | Phase::Ended(Outcome::Committed) => _ = self.committed.get_or_insert(now),
            Phase::RollingBack | Phase::Ended(Outcome::Aborted) => _ = self.rolled_back.get_or_insert(now),
            _ => {}
        }
    }

    pub(super) fn status(
        &self,
        gid: Gid,
        coordinator: CoordinatorId,
        records: &[BranchRecord],
    ) -> TransactionStatus {
        let count =
            |is: fn(BranchState) -> bool| self.core.branches.iter().filter(|branch| is(branch.state)).count();
        let participants =
            records.iter().zip(&self.core.branches).map(|(record, branch)| ParticipantStatus {
                name: record.name.clone(),
                resource_type: record.resource_type.clone(),
                status: spelled(branch.state),
            });
        TransactionStatus {
            transaction_id: gid.to_string(),
            coordinator_id: coordinator.to_string(),
            status: self.core.phase.into(),
            start_time: self.started,
            prepare_time: self.prepared,
            commit_time: self.committed,
            rollback_time: self.rolled_back,
            participant_count: records.len(),
            prepared_count: count(|state| {
                matches!(state, BranchState::Prepared | BranchState::Committed | BranchState::CommitFailed)
            }),
            committed_count: count(|state| state == BranchState::Committed),
            rolled_back_count: count(|state| matches!(state, BranchState::RolledBack | BranchState::Refused)),
            participants: participants.enumerate().collect(),
        }
    }
}
