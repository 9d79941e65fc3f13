//! How a distributed transaction can fail.

use super::{
    core::{Decision, Heuristic, Refusal},
    ids::{Gid, ResourceId},
    log::LogError,
    participant::RmError,
};
use crate::error::Error;

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
}
