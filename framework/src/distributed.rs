//! Work that does not fit into one database: a unit of work whose branches in several databases end the same way.
//!
//! The decision is one row that is written once, in the transaction of the home database together with its business rows, outbox
//! rows and idempotency record; every other database holds a prepared branch until that row says how it ends. [`core`] is the
//! protocol as a pure function, and everything else carries out what it says.
//!
//! What it does not do: make the branches visible at the same instant. They become visible one after the other, and a reader who
//! looks at two databases at once can see half of a transaction that has committed.

pub mod access;
mod alarms;
mod beside;
pub mod book;
pub mod breaker;
mod cleaning;
mod closure;
mod coordinator;
pub mod core;
pub(crate) mod crash;
mod error;
pub mod finding;
mod health;
pub mod home;
pub mod idempotent;
mod ids;
mod label;
pub mod log;
mod machine;
mod manual;
pub mod measures;
pub mod monitor;
mod named;
mod operation;
mod participant;
mod recovery;
pub mod retrying;
mod status;
mod unit;
mod watch;

pub use access::{Access, AccessDenied, AccessPolicy, Action, AllowAll, Principal};
pub use alarms::{Alarm, Figure, ThresholdHook, Thresholds};
pub use book::{
    AuditEntry, BranchEntry, EventEntry, LogBook, LogFigures, TransactionDetail, TransactionEntry,
    TransactionFilter, Which,
};
pub use breaker::{CircuitBreakerOpen, StartBreaker, Started};
pub use cleaning::Cleaned;
pub use closure::FnParticipant;
pub use coordinator::{AlertHook, Coordinator, PhaseTimeouts, Settings};
pub use error::DistributedError;
pub use finding::{Finding, Part, Severity};
pub use health::CoordinatorHealth;
pub use idempotent::{IdempotentProcessor, ProcessError, ProcessKey, Processed};
pub use ids::{BadResourceId, BranchId, CoordinatorId, Gid, ResourceId};
pub use label::{Label, TransactionName};
pub use log::{DecisionLog, LogCare};
pub use manual::{Forget, Resolved};
pub use monitor::{
    MonitoredEvent, MonitoredStatus, TransactionCounts, TransactionMonitor, TransactionRecord,
};
pub use named::NamedTransactions;
pub use operation::ExternalStage;
pub use participant::{
    Ack, Decision, EventBranch, Health, Heuristic, Pressure, Resource, RmError, TransactionParticipant, Vote,
};
pub use recovery::Recovered;
pub use retrying::TransactionRetry;
pub use status::{ParticipantStatus, TransactionStatus, TwoPhaseStatus};
pub use unit::{CommitReport, DistributedUnitOfWork, ParticipantId};

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
pub use crate::store::distributed::{
    branch::{SqlBranch, SqlResource},
    events::{EventStoreParticipant, EventStoreResource, SqlBranchEvents},
    examine::examine,
    guard::BranchGuard,
    home::{HomeGuard, SqlHome},
    last::{SqlLast, SqlLastResource},
    log::SqlDecisionLog,
    unit::UnitOfWorkParticipant,
};
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub use crate::{context::Branch, store::distributed::bus::DistributedUnits};
