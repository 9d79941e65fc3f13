//! What people see of the decision log: lists, single transactions with all that happened to them, figures, and who did what.
//!
//! Read by the command line, by whoever watches, and by named transactions to find one. Nothing here decides anything. Ages and
//! times are by the clock of the log's database.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{core::Decision, ids::Gid, log::LogError};
use crate::limits;

/// Which transactions are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// Those that are not over everywhere, the oldest first.
    #[default]
    Open,
    /// Those that are over, the newest first.
    Finished,
    /// Both: the open ones first, then the newest first.
    All,
}

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionFilter {
    /// Open or over. Default: open.
    pub which: Which,
    /// With exactly this name.
    pub name: Option<String>,
    /// In exactly this status, as the log spells it: `prepared`, `requires_manual_intervention`.
    pub status: Option<String>,
    /// Begun longer ago than this.
    pub older_than: Option<Duration>,
    /// At most so many; never more than [`limits::DISTRIBUTED_LIST_MAX`]. Default: 100.
    pub count: u32,
}

impl Default for TransactionFilter {
    fn default() -> Self {
        Self { which: Which::Open, name: None, status: None, older_than: None, count: 100 }
    }
}

impl TransactionFilter {
    /// Whatever has or had this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { which: Which::All, name: Some(name.into()), ..Self::default() }
    }

    /// How many rows are read.
    #[must_use]
    pub fn bound(&self) -> u32 {
        self.count.min(limits::DISTRIBUTED_LIST_MAX)
    }
}

/// One transaction, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TransactionEntry {
    /// Its id.
    pub gid: Gid,
    /// The name that a user chose.
    pub name: Option<String>,
    /// `2pc` or `3pc`.
    pub kind: String,
    /// What kind of transaction it is for the application.
    #[serde(rename = "type")]
    pub tx_type: Option<String>,
    /// What the application said about it.
    pub metadata: Option<String>,
    /// What it belongs to.
    pub correlation_id: Option<String>,
    /// Who began it.
    pub principal: Option<String>,
    /// As the log spells it: `active`, `prepared`, `committing`, `committed`, `requires_manual_intervention`, ...
    pub status: String,
    /// What stands, if anything does.
    pub decision: Option<Decision>,
    /// Why it was decided so.
    pub decision_reason: Option<String>,
    /// What a human has to know.
    pub error_message: Option<String>,
    /// Why it was cleaned up.
    pub cleaned_up_reason: Option<String>,
    /// Whether the home database takes part with work of its own.
    pub home: bool,
    /// How often recovery has taken it.
    pub attempts: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When every branch of a named transaction was prepared.
    pub prepared_at: Option<DateTime<Utc>>,
    /// When the decision was made.
    pub decided_at: Option<DateTime<Utc>>,
    /// When it was over everywhere.
    pub finished_at: Option<DateTime<Utc>>,
    /// When it was cleaned up.
    pub cleaned_up_at: Option<DateTime<Utc>>,
    /// Undecided after this, it is aborted.
    pub deadline: DateTime<Utc>,
    /// When recovery looks at it next.
    pub next_run_at: DateTime<Utc>,
    /// How long ago it began, in milliseconds.
    pub age_ms: u64,
}

/// One branch, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BranchEntry {
    /// Its place.
    pub ordinal: u16,
    /// What the caller calls it.
    pub name: String,
    /// `two_phase` or `last`.
    pub kind: String,
    /// Where it is.
    pub resource: String,
    /// What kind of thing that is.
    pub resource_type: String,
    /// What it is called there.
    pub xid: String,
    /// As the log spells it.
    pub status: String,
    /// What it said last.
    pub error: Option<String>,
    /// When the log heard of it last.
    pub updated_at: DateTime<Utc>,
}

/// Something that happened to a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct EventEntry {
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub event: String,
    /// What else is known of it.
    pub data: Option<String>,
}

/// Everything that the log knows of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TransactionDetail {
    /// The transaction.
    pub transaction: TransactionEntry,
    /// Its branches, in their order.
    pub branches: Vec<BranchEntry>,
    /// What happened, in order; the newest [`limits::DISTRIBUTED_LIST_MAX`].
    pub events: Vec<EventEntry>,
}

/// How a log stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LogFigures {
    /// Transactions that are not over everywhere.
    pub open: u64,
    /// Of these: named ones that are prepared and wait for somebody to commit them or to roll them back.
    pub waiting: u64,
    /// Of these: recovery has taken them, and they are still not over.
    pub in_doubt: u64,
    /// Of these: a human has to look.
    pub manual: u64,
    /// The oldest that is open.
    pub oldest: Option<Gid>,
    /// How long ago that began, in milliseconds; 0 when none is open.
    pub oldest_age_ms: u64,
}

/// What somebody did, or was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When; filled in by the database.
    pub at: Option<DateTime<Utc>>,
    /// Of which transaction, where there was one.
    pub gid: Option<Gid>,
    /// Under which name: the transaction's, or its id.
    pub name: String,
    /// Who.
    pub principal: String,
    /// What: `begin`, `commit`, `rollback`, `resolve`, `forget`.
    pub action: String,
    /// What came of it: `denied`, `allowed`.
    pub outcome: String,
    /// Why: of the policy, or of the one who did it.
    pub reason: String,
}

/// The log, for people.
#[async_trait]
pub trait LogBook: Send + Sync + 'static {
    /// The transactions that a filter picks.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn list(&self, filter: &TransactionFilter) -> Result<Vec<TransactionEntry>, LogError>;

    /// One of them with its branches and events.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn show(&self, gid: Gid) -> Result<Option<TransactionDetail>, LogError>;

    /// How the log stands.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn figures(&self) -> Result<LogFigures, LogError>;

    /// Writes down what somebody did or was refused. It stays when the transaction is forgotten.
    ///
    /// # Errors
    /// When it was not written, or nobody knows.
    async fn audit(&self, entry: &AuditEntry) -> Result<(), LogError>;

    /// Who did what, the newest first, at most `count`: of one transaction by its name or id, or of all.
    ///
    /// # Errors
    /// When the log does not answer.
    async fn audited(&self, of: Option<&str>, count: u32) -> Result<Vec<AuditEntry>, LogError>;
}
