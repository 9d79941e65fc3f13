//! What can go wrong with streams of events.

use super::Expected;

/// Why an event store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventStoreError {
    /// Somebody else appended first, or the stream is not what was expected. Nothing was written. Read the stream again and
    /// decide again; in a handler, return the error: the message is handled again.
    #[error(
        "stream {stream:?} is at version {actual}, expected was {expected}: somebody else appended; read it again and decide again"
    )]
    Conflict {
        /// The stream.
        stream: String,
        /// What the caller expected.
        expected: Expected,
        /// The version that it has; 0 without events.
        actual: u64,
    },
    /// A transaction has prepared events for the stream and has not ended. Try again once it has.
    #[error(
        "stream {stream:?} is reserved by transaction {by:?}, which has prepared and not ended; try again later"
    )]
    Reserved {
        /// The stream.
        stream: String,
        /// The transaction.
        by: String,
    },
    /// The name of a stream cannot be used.
    #[error("stream name {name:?} is not 1 to {max} bytes of text without control characters", max = crate::limits::NAME_BYTES_MAX)]
    StreamName {
        /// The name.
        name: String,
    },
    /// The name of an event cannot be used.
    #[error("event {name:?} has a name that is not 1 to {max} characters out of A-Z a-z 0-9 . _ -", max = crate::limits::NAME_BYTES_MAX)]
    EventName {
        /// The name.
        name: String,
    },
    /// Events, or a snapshot, are larger than the store takes. Keep large things elsewhere and their address in the event.
    #[error("{what} for stream {stream:?} is too large: {is}, at most {max}")]
    TooLarge {
        /// The stream.
        stream: String,
        /// What is too large.
        what: String,
        /// How large it is.
        is: usize,
        /// How large it may be.
        max: usize,
    },
    /// An event of this id is in the store already, at another place. Give the event an id of its own.
    #[error(
        "an event for stream {stream:?} has an id that another event in the store has; ids are used once"
    )]
    DuplicateId {
        /// The stream.
        stream: String,
    },
    /// Two lists of staged events are for one stream. Stage them as one.
    #[error("stream {stream:?} is named twice in one transaction: stage its events together")]
    StreamTwice {
        /// The stream.
        stream: String,
    },
    /// The id of a transaction cannot be used.
    #[error("transaction id {id:?} is not 1 to {max} bytes of text without control characters, not ending with a space", max = crate::limits::NAME_BYTES_MAX)]
    TransactionId {
        /// The id.
        id: String,
    },
    /// A transaction that has ended cannot be prepared. Begin another one.
    #[error("transaction {id:?} cannot be prepared: it is {state} already")]
    Ended {
        /// The transaction.
        id: String,
        /// How it ended: `committed` or `aborted`.
        state: String,
    },
    /// Events were added to a distributed transaction that has not begun, or that is prepared already. Begin it first, and add
    /// events before it is prepared; drop a guard of the branch's connection before.
    #[error(
        "events can be added only while the transaction is open: begin it first, add events before it is prepared, and drop \
         the guard of the branch's connection before"
    )]
    NotOpen,
    /// An event or a snapshot cannot be encoded or decoded.
    #[error("{what}: {cause}")]
    Codec {
        /// Which one.
        what: String,
        /// What the codec said.
        cause: String,
    },
    /// A snapshot claims more events than its stream has: it was made from something that was rolled back.
    #[error(
        "a snapshot of stream {stream:?} is of version {snapshot}, but the stream is at version {actual}"
    )]
    SnapshotAhead {
        /// The stream.
        stream: String,
        /// The version of the snapshot.
        snapshot: u64,
        /// The version of the stream.
        actual: u64,
    },
    /// The answer to COMMIT was lost: the events may be in the store or not. Append the same events, with their ids, again: what is
    /// there already is recognised unless the expectation was [`Expected::Any`].
    #[error("{doing}: nobody knows whether it was committed: {cause}; do the same again, with the same ids")]
    Unknown {
        /// What was being done.
        doing: String,
        /// What happened to the answer.
        cause: String,
    },
    /// The database did not answer in time. Nothing was committed.
    #[error("the database did not answer {doing} within {after:?}")]
    Timeout {
        /// What was asked.
        doing: String,
        /// The bound.
        after: std::time::Duration,
    },
    /// The database failed. Nothing was committed.
    #[error("{doing}: {cause}")]
    Database {
        /// What was being done.
        doing: String,
        /// What it said.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl EventStoreError {
    /// Whether doing the same again without changing anything can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Reserved { .. } | Self::Unknown { .. } | Self::Timeout { .. } | Self::Database { .. }
        )
    }
}
