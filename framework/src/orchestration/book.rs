//! Orchestrated sagas for people: lists, single ones with their steps, and what is decided by hand.
//!
//! Read by the command line. Needs no definitions. Ages and times are by the clock of the database that keeps the sagas.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{
    core::{self, Direction, Refusal, State, StepStatus},
    error::OrchestrationError,
    handler::SagaId,
    log::MANUAL,
};
use crate::{
    distributed::{AuditEntry, Principal, Which, log::LogError},
    limits,
};

/// Which sagas are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SagaFilter {
    /// Under way, oldest first, or over, newest first. Default: under way.
    pub which: Which,
    /// Of exactly this name.
    pub name: Option<String>,
    /// In exactly this status: `running`, `compensating`, `completed`, `compensated`, `requires_manual_intervention`.
    pub status: Option<String>,
    /// Started longer ago than this.
    pub older_than: Option<Duration>,
    /// At most so many; never more than [`limits::DISTRIBUTED_LIST_MAX`]. Default: 100.
    pub count: u32,
}

impl Default for SagaFilter {
    fn default() -> Self {
        Self { which: Which::Open, name: None, status: None, older_than: None, count: 100 }
    }
}

/// One saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SagaEntry {
    /// Its id.
    pub id: SagaId,
    /// The name of its definition.
    pub name: String,
    /// The version of its definition.
    pub version: u32,
    /// `running`, `compensating`, `completed`, `compensated` or `requires_manual_intervention`.
    pub status: String,
    /// Forward or back.
    pub direction: Direction,
    /// Why it goes back, or where it hangs.
    pub error: Option<String>,
    /// Who goes on with it now.
    pub owner: Option<String>,
    /// How often somebody has taken it.
    pub epoch: i64,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When somebody wrote to it last.
    pub updated_at: DateTime<Utc>,
    /// When it goes on, unless somebody is at it.
    pub next_run_at: DateTime<Utc>,
    /// Until when nobody else takes it.
    pub lease_until: Option<DateTime<Utc>>,
    /// Past it, it goes back as long as it can.
    pub deadline: Option<DateTime<Utc>>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// How long ago it was started, in milliseconds.
    pub age_ms: u64,
}

/// One step of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StepEntry {
    /// Its place, from 0.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub status: StepStatus,
    /// Attempts of its action.
    pub attempts: u32,
    /// Attempts of its compensation; for a pivot, how often it was asked whether it was done.
    pub compensations: u32,
    /// Whether an attempt had no answer.
    pub in_doubt: bool,
    /// What its action returned, as JSON.
    pub output: Option<String>,
    /// What its last attempt that failed said.
    pub error: Option<String>,
    /// When it changed last.
    pub updated_at: DateTime<Utc>,
}

/// Everything about a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SagaDetail {
    /// The saga.
    pub saga: SagaEntry,
    /// What it was started with, as JSON.
    pub data: String,
    /// Its steps, in their order.
    pub steps: Vec<StepEntry>,
    /// Who did what with it, the newest first.
    pub audit: Vec<AuditEntry>,
}

impl SagaDetail {
    fn state(&self) -> State {
        let mut state = State::new(self.steps.len());
        state.direction = self.saga.direction;
        for (state, step) in state.steps.iter_mut().zip(&self.steps) {
            *state = core::StepState {
                status: step.status,
                attempts: step.attempts,
                compensations: step.compensations,
                in_doubt: step.in_doubt,
            };
        }
        state
    }
}

/// What was changed by hand, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SagaChange {
    /// The steps whose status changes: name, before, after.
    pub steps: Vec<(String, StepStatus, StepStatus)>,
    /// The saga's status after it.
    pub status: &'static str,
}

/// What somebody wants of a saga that waits for a human.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ByHand {
    /// Try what is stuck again, with all attempts before it; a saga that only waits for its next try goes on now.
    Retry,
    /// This step, which is stuck, was done by a human when the saga goes forward, or undone when it goes back.
    Skip(String),
}

impl ByHand {
    /// As the audit has it.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip(_) => "skip",
        }
    }
}

/// A change, as the tables need it.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The saga.
    pub id: SagaId,
    /// The epoch that was read; another one by now means that somebody was faster.
    pub epoch: i64,
    /// The state after it.
    pub state: State,
    /// The places of the steps that change.
    pub steps: Vec<usize>,
    /// The status of the saga after it.
    pub status: &'static str,
    /// Who, what and why: written in the same transaction.
    pub audit: AuditEntry,
}

/// Sagas, for people.
#[async_trait]
pub trait SagaBook: Send + Sync + 'static {
    /// The sagas that a filter picks.
    ///
    /// # Errors
    /// When the database does not answer.
    async fn list(&self, filter: &SagaFilter) -> Result<Vec<SagaEntry>, OrchestrationError>;

    /// One of them, with its steps and up to `audited` entries of the audit.
    ///
    /// # Errors
    /// When the database does not answer.
    async fn show(&self, id: SagaId, audited: u32) -> Result<Option<SagaDetail>, OrchestrationError>;

    /// Writes a change together with its audit entry.
    ///
    /// # Errors
    /// [`OrchestrationError::Fenced`] when somebody has changed the saga since it was read.
    async fn change(&self, change: &Changed) -> Result<(), OrchestrationError>;
}

/// Changes a saga by hand, or says with `dry_run` what would be changed.
///
/// # Errors
/// When there is no such saga, it is over or being carried out, the step is not stuck, or there is no reason. Nothing was changed then.
pub async fn by_hand(
    book: &dyn SagaBook,
    id: SagaId,
    what: &ByHand,
    who: &Principal,
    reason: &str,
    dry_run: bool,
) -> Result<SagaChange, OrchestrationError> {
    let reason = reason.trim();
    if !(1..=limits::REASON_BYTES_MAX).contains(&reason.len()) {
        return Err(OrchestrationError::NoReason { action: what.action() });
    }
    let found = book.show(id, 0).await?.ok_or(OrchestrationError::NotFound(id))?;
    if found.saga.finished_at.is_some() {
        return Err(OrchestrationError::Over { id, status: found.saga.status });
    }
    if found.saga.owner.is_some() {
        return Err(OrchestrationError::Working { id, status: found.saga.status });
    }
    let before = found.state();
    let after = match what {
        ByHand::Retry => core::resumed(before.clone()),
        ByHand::Skip(step) => {
            let refused = |cause: Refusal| OrchestrationError::Refused { id, cause };
            let at = found.steps.iter().position(|known| known.name == *step);
            let known = || found.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", ");
            let at = at.ok_or_else(|| refused(Refusal::NoStep { step: step.clone(), known: known() }))?;
            core::skipped(before.clone(), at, step).map_err(refused)?
        }
    };
    let changes = |at: &usize| before.steps[*at] != after.steps[*at];
    let steps: Vec<usize> = (0..after.steps.len()).filter(changes).collect();
    let status = match (after.stuck(), after.direction) {
        (Some(_), _) => MANUAL,
        (None, Direction::Forward) => "running",
        (None, Direction::Back) => "compensating",
    };
    let moved =
        |at: &usize| (found.steps[*at].name.clone(), before.steps[*at].status, after.steps[*at].status);
    let change = SagaChange { steps: steps.iter().map(moved).collect(), status };
    if dry_run {
        return Ok(change);
    }
    let audit = AuditEntry {
        at: None,
        gid: Some(crate::distributed::Gid(id.0)),
        name: cut(&found.saga.name),
        principal: cut(who.name()),
        action: match what {
            ByHand::Retry => "retry saga".to_owned(),
            ByHand::Skip(step) => cut(&format!("skip saga step {step}")),
        },
        outcome: "allowed".to_owned(),
        reason: reason.to_owned(),
    };
    book.change(&Changed { id, epoch: found.saga.epoch, state: after, steps, status, audit }).await?;
    Ok(change)
}

/// As much as a column holds.
fn cut(text: &str) -> String {
    text.chars().take(limits::NAME_BYTES_MAX).collect()
}

impl From<LogError> for OrchestrationError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Refused(cause) => Self::Log(cause),
            LogError::Unknown(cause) => Self::Unknown(cause),
        }
    }
}

/// A row that this version cannot read.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub(crate) fn unreadable(why: impl std::fmt::Display) -> OrchestrationError {
    OrchestrationError::Log(crate::error::Error::new(format!("a row of orchestration cannot be read: {why}")))
}
