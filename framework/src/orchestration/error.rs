//! How an orchestrated saga can fail to be started, found or changed.

use super::{core::Refusal, handler::SagaId};
use crate::error::Error;

/// What could not be done with a saga. What a step says is kept with the saga and is none of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrchestrationError {
    /// A definition cannot be used.
    #[error("saga {saga:?}: {why}")]
    Definition {
        /// The saga.
        saga: String,
        /// Why not.
        why: String,
    },
    /// Two definitions have one name and one version.
    #[error("two definitions are called {name:?} version {version}: raise the version of the newer one")]
    SameDefinition {
        /// The name.
        name: String,
        /// The version.
        version: u32,
    },
    /// Nobody here can carry it out.
    #[error(
        "saga {name:?} version {version} is not defined in this process: give its definition to Orchestrator::builder, also that of \
         an older version as long as there are sagas of it"
    )]
    NotDefined {
        /// The name.
        name: String,
        /// The version.
        version: u32,
    },
    /// There is no such saga.
    #[error(
        "there is no saga {0}: it was not started, its start was rolled back, or it is over and was forgotten after its time"
    )]
    NotFound(SagaId),
    /// Somebody else has taken it over; nothing was written.
    #[error("saga {0} was taken over by somebody else: this process does not go on with it")]
    Fenced(SagaId),
    /// It is over.
    #[error("saga {id} is {status}: there is nothing left to change")]
    Over {
        /// Which one.
        id: SagaId,
        /// How it ended.
        status: String,
    },
    /// Somebody is at it.
    #[error("saga {id} is {status} and is being carried out: wait until it needs help")]
    Working {
        /// Which one.
        id: SagaId,
        /// Where it is.
        status: String,
    },
    /// What was asked for cannot be done with the step.
    #[error("saga {id}: {cause}")]
    Refused {
        /// Which one.
        id: SagaId,
        /// Why not.
        cause: Refusal,
    },
    /// What is done by hand says why.
    #[error("{action} needs a reason of 1 to {max} bytes: it is written down with who did it", max = crate::limits::REASON_BYTES_MAX)]
    NoReason {
        /// What was to be done.
        action: &'static str,
    },
    /// The database that keeps the sagas refused: nothing was written.
    #[error("the log of the sagas refused: {0}")]
    Log(Error),
    /// It did not answer: it may have been written.
    #[error("the log of the sagas did not answer: {0}")]
    Unknown(Error),
}

impl OrchestrationError {
    /// Whether trying again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Working { .. })
    }
}
