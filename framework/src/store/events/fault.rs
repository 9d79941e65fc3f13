//! What went wrong with a statement, before it is known what it was for.

use crate::{event_store::EventStoreError, limits};

/// Why something was not done, before it is known what was being done.
pub(crate) enum Fault {
    /// The store refuses.
    Told(EventStoreError),
    /// The database refuses or is gone.
    Sql(sqlx::Error),
    /// The id of an event is taken.
    Duplicate { stream: String },
    /// The same, said by somebody else.
    Said(String),
    /// No answer in time.
    Timeout,
    /// No answer to COMMIT.
    Unknown(String),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<EventStoreError> for Fault {
    fn from(error: EventStoreError) -> Self {
        Self::Told(error)
    }
}

impl From<String> for Fault {
    fn from(said: String) -> Self {
        Self::Said(said)
    }
}

impl Fault {
    pub(crate) fn while_doing(self, doing: &str) -> EventStoreError {
        let doing = doing.to_owned();
        match self {
            Self::Told(error) => error,
            Self::Duplicate { stream } => EventStoreError::DuplicateId { stream },
            Self::Sql(cause) => EventStoreError::Database { doing, cause: cause.into() },
            Self::Said(cause) => EventStoreError::Database { doing, cause: cause.into() },
            Self::Timeout => EventStoreError::Timeout { doing, after: limits::CALL_TIMEOUT },
            Self::Unknown(cause) => EventStoreError::Unknown { doing, cause },
        }
    }
}
