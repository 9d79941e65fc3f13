//! Recognising a message that was handled before.
//!
//! The record is a row of table `idempotency`, inserted first in the unit of work's transaction and committed with it.
//! Only a committed record makes a message a duplicate; any other error of the insert is an error.

/// What happens to a message that was handled before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DuplicatePolicy {
    /// The handlers are skipped and the message is acknowledged.
    #[default]
    Skip,
    /// The handlers run all the same, with the header `barid-duplicate: true`.
    Invoke,
}

/// Idempotency in the database of the SQL unit of work. Needs `commit_with_transaction`.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct SqlIdempotency {
    pub(crate) policy: DuplicatePolicy,
}

impl SqlIdempotency {
    /// Skips duplicates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Does with duplicates what `policy` says.
    pub fn duplicates(mut self, policy: DuplicatePolicy) -> Self {
        self.policy = policy;
        self
    }
}
