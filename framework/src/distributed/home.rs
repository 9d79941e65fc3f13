//! The home unit of work, as the coordinator sees it.

use async_trait::async_trait;

use super::ids::Gid;
use crate::{error::Result, unit_of_work::CommitError};

/// The one local transaction whose COMMIT is the decision, in the database of the log.
#[async_trait]
pub trait Home: Send + Sync + 'static {
    /// Opens it.
    ///
    /// # Errors
    /// The transaction does not begin then.
    async fn begin(&self) -> Result<()>;

    /// Commits it, with the decision to commit of `decide` and the branches that have changed nothing, or alone.
    ///
    /// # Errors
    /// [`CommitError`], which says whether the outcome is known.
    async fn commit(&self, decide: Option<(Gid, Vec<u16>)>) -> Result<(), CommitError>;

    /// Rolls it back; nothing happens when it is not open.
    ///
    /// # Errors
    /// When the database did not say so; the connection is closed then.
    async fn rollback(&self) -> Result<()>;
}
