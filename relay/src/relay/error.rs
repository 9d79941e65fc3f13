//! Why a relay stops by itself.

use crate::source::SourceError;

/// Why a relay stopped that nobody told to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The source cannot be worked with; see the cause.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A sink cannot be worked with; see the cause.
    #[error("sink {sink}: {cause}")]
    Sink {
        /// Its name.
        sink: String,
        /// Why.
        #[source]
        cause: barid::transport::TransportError,
    },
    /// The relay stopped by itself, because going on would break a promise. What is not delivered is in the outbox.
    #[error("source {source_name} has halted at row {seq} (message {id}): {reason}")]
    Halted {
        /// The source.
        source_name: String,
        /// The position of the row.
        seq: i64,
        /// Its message id.
        id: uuid::Uuid,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A task of the relay ended by a panic. This is a defect: report it.
    #[error(
        "source {source_name}: the relay's {task} task has died; this is a defect, please report it with the log"
    )]
    TaskDied {
        /// The source.
        source_name: String,
        /// Which task.
        task: &'static str,
    },
}

impl RelayError {
    /// Whether trying again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => SourceError::is_transient(error),
            Self::Sink { cause, .. } => cause.is_transient(),
            Self::TaskDied { .. } | Self::Halted { .. } => false,
        }
    }

    /// Whether another relay has taken over the source.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_fenced())
    }
}
