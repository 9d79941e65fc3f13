//! How a distributed transaction can fail.

use super::{
    access::AccessDenied,
    breaker::CircuitBreakerOpen,
    core::{Decision, Heuristic, Refusal},
    ids::{Gid, ResourceId},
    log::LogError,
    participant::RmError,
};
use crate::{error::Error, event_store::EventStoreError};

/// Why a distributed transaction could not be begun, or how it ended if it did not commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DistributedError {
    /// Two resources have one name. Give each database a name of its own.
    #[error("two resources are called {0}: give each database a name of its own")]
    SameResource(ResourceId),
    /// The resource is not known to the coordinator, so recovery could not complete the branch.
    #[error(
        "branch {name:?} is on resource {resource}, which the coordinator does not know: give it to Coordinator::connect"
    )]
    UnknownResource {
        /// The branch.
        name: String,
        /// Its resource.
        resource: ResourceId,
    },
    /// There can be one commit point: a home unit of work or one last resource.
    #[error(
        "branch {name:?} can only commit, and there is another commit point already (the home unit of work, or another last \
         resource): use a database that can be prepared for one of them"
    )]
    TwoCommitPoints {
        /// The branch.
        name: String,
    },
    /// More branches than a transaction can have.
    #[error("a transaction has at most {0} branches")]
    TooManyBranches(usize),
    /// There is no participant of this number.
    #[error("there is no participant {0} in the transaction: use the id that its registration returned")]
    UnknownParticipant(usize),
    /// Events for something that is no event store.
    #[error(
        "branch {name:?} is of the kind {kind}, which takes no events: register it with register_event_store()"
    )]
    WrongParticipantKind {
        /// The branch.
        name: String,
        /// What it is.
        kind: String,
    },
    /// An event store refused events; the transaction cannot commit.
    #[error("branch {name:?} does not take the events: {cause}")]
    Events {
        /// The branch.
        name: String,
        /// Why.
        #[source]
        cause: EventStoreError,
    },
    /// The transaction has begun: who takes part is written down.
    #[error("the transaction has begun: register everybody before begin()")]
    AlreadyBegun,
    /// A call that is out of order. Nothing changed.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The log failed before anybody was asked to do anything.
    #[error("{0}")]
    Log(#[from] LogError),
    /// A branch could not be opened; everything was rolled back.
    #[error("branch {name:?} cannot begin: {cause}")]
    Branch {
        /// The branch.
        name: String,
        /// Why.
        #[source]
        cause: RmError,
    },
    /// The home unit of work could not be opened; everything was rolled back.
    #[error("the home unit of work cannot begin: {0}")]
    Home(Error),
    /// It was rolled back, or will be: nothing of it stays.
    #[error("transaction {gid} was rolled back: {reason}")]
    Aborted {
        /// The transaction.
        gid: Gid,
        /// Why, with the branch that was to blame.
        reason: String,
    },
    /// Nobody knows yet. Do not repeat and do not undo anything; recovery finds out.
    #[error(
        "the outcome of transaction {gid} is not known yet ({reason}): recovery finds out, do not repeat it before"
    )]
    InDoubt {
        /// The transaction.
        gid: Gid,
        /// What was not answered.
        reason: String,
    },
    /// A branch ended in another way than was decided, by hand or by itself. A human has to look.
    #[error(
        "transaction {gid} has a mixed outcome ({heuristic:?}): {reason}; compare the branches and repair them by hand"
    )]
    HeuristicMixed {
        /// The transaction.
        gid: Gid,
        /// What happened.
        heuristic: Heuristic,
        /// What was decided, and what the home unit of work has followed.
        decision: Decision,
        /// Which branch.
        reason: String,
    },
    /// A phase panicked. Its branches are completed by recovery.
    #[error("a phase of transaction {gid} panicked: {reason}; recovery completes it")]
    Panicked {
        /// The transaction.
        gid: Gid,
        /// What it said.
        reason: String,
    },
    /// The policy said no. Nothing was done, and it is written down.
    #[error("{0}")]
    Denied(#[from] AccessDenied),
    /// Too many transactions fail: none is begun now. Those that are decided are completed all the same.
    #[error("{0}")]
    Unavailable(#[from] CircuitBreakerOpen),
    /// No transaction can have this name.
    #[error(
        "{0:?} cannot name a transaction: use a letter or digit and then up to 119 letters, digits, '.', '_', ':', '@' or '-'"
    )]
    BadName(String),
    /// A transaction that is not over has the name.
    #[error(
        "the name {name:?} is in use by transaction {gid}, which is {status}: commit or roll back that one, or use another name"
    )]
    NameInUse {
        /// The name.
        name: String,
        /// Who has it.
        gid: Gid,
        /// Where that one is.
        status: String,
    },
    /// A transaction had the name until lately, and who still means that one must not reach another.
    #[error(
        "the name {name:?} was used by transaction {gid}, which is {status}: what was asked for under it is done or undone; use \
         another name for something else"
    )]
    NameUsed {
        /// The name.
        name: String,
        /// Who had it.
        gid: Gid,
        /// How that one ended.
        status: String,
    },
    /// There is no such transaction in the log.
    #[error(
        "no transaction is called {0:?}: it never began, it failed before it was written down, or it was forgotten after its time"
    )]
    NotFound(String),
    /// Not every branch is known to be prepared, so nobody can commit it from outside.
    #[error(
        "transaction {what} is {status} and not prepared: wait until begin_distributed has returned, or roll it back"
    )]
    NotPrepared {
        /// Which one.
        what: String,
        /// Where it is.
        status: String,
    },
    /// The decision to commit stands; nothing of it can be undone here.
    #[error(
        "transaction {what} is committed and can no longer be rolled back: undo its effects by a new one"
    )]
    AlreadyCommitted {
        /// Which one.
        what: String,
    },
    /// The decision to roll back stands; nothing of it is left to commit.
    #[error(
        "transaction {what} was rolled back ({reason}) and can no longer be committed: begin it again under another name"
    )]
    AlreadyRolledBack {
        /// Which one.
        what: String,
        /// Why.
        reason: String,
    },
    /// Named transactions need databases that can prepare.
    #[error(
        "{what} cannot be part of a named transaction: {why}; use PostgreSQL, MariaDB or MySQL branches for it, or an ordinary \
         distributed unit of work"
    )]
    Unsupported {
        /// What kind of participant.
        what: String,
        /// Why not.
        why: String,
    },
    /// What is decided by hand says why.
    #[error("{action} needs a reason of 1 to {max} bytes: it is written down with who did it", max = crate::limits::REASON_BYTES_MAX)]
    NoReason {
        /// What was to be done.
        action: super::access::Action,
    },
    /// It is not over, so it is not forgotten.
    #[error(
        "transaction {what} is {status} and not over: resolve it first; or give it up by force, when its branches are gone for good"
    )]
    StillOpen {
        /// Which one.
        what: String,
        /// Where it is.
        status: String,
    },
    /// The settings of the coordinator cannot be used.
    #[error("the settings of the coordinator: {0}")]
    Settings(String),
}

impl DistributedError {
    /// Whether nothing of the transaction stays and another try, with a transaction of its own, can go better. Never true for an
    /// outcome that is not known.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Aborted { .. } | Self::Home(_) | Self::Log(LogError::Refused(_)) | Self::Unavailable(_) => {
                true
            }
            Self::Branch { cause, .. } => matches!(cause, RmError::Retryable(_) | RmError::Unknown(_)),
            _ => false,
        }
    }
}
