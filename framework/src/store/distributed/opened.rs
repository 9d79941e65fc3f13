//! A message's transaction and branches, as its coordinator sees them: opened before the transaction was written down.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{branch::TwoPhase, log::commit_statements};
use crate::{
    distributed::{Ack, BranchId, Gid, ResourceId, RmError, TransactionParticipant, Vote, home::Home},
    error::{Error, Result},
    store::unit::SqlUnit,
    unit_of_work::{CommitError, Unit as _},
};

/// The transaction of a message. Clones are the same one.
pub(super) struct MessageHome<DB: TwoPhase>(Arc<Mutex<Open<DB>>>);

struct Open<DB: TwoPhase> {
    unit: Option<SqlUnit<DB>>,
    /// Why the database did not commit.
    refused: Option<Error>,
}

impl<DB: TwoPhase> MessageHome<DB> {
    pub(super) fn new(unit: Option<SqlUnit<DB>>) -> Self {
        Self(Arc::new(Mutex::new(Open { unit, refused: None })))
    }

    /// Why the database did not commit, in its own words and types, so that whoever knows the cause recognises it.
    pub(super) async fn refused(&self) -> Option<Error> {
        self.0.lock().await.refused.take()
    }
}

impl<DB: TwoPhase> Clone for MessageHome<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[async_trait]
impl<DB: TwoPhase> Home for MessageHome<DB> {
    async fn begin(&self) -> Result<()> {
        Ok(())
    }

    async fn commit(&self, decide: Option<(Gid, Vec<u16>)>) -> Result<(), CommitError> {
        let mut open = self.0.lock().await;
        let ended = || CommitError::Failed(Error::new("the unit of work has ended"));
        let mut unit = open.unit.take().ok_or_else(ended)?;
        if let Some((gid, read_only)) = decide {
            unit.add(commit_statements::<DB>(gid, &read_only));
        }
        let answer = unit.commit().await;
        if answer.is_err() {
            // The connection is closed when this fails, which rolls back too.
            drop(unit.rollback().await);
        }
        answer.map_err(|error| match error {
            CommitError::Failed(error) => {
                let said = Error::new(error.to_string());
                open.refused = Some(error);
                CommitError::Failed(said)
            }
            unknown => unknown,
        })
    }

    async fn rollback(&self) -> Result<()> {
        match self.0.lock().await.unit.take() {
            Some(mut unit) => unit.rollback().await,
            None => Ok(()),
        }
    }
}

/// A branch, or whatever else takes part.
pub(super) struct Opened(pub(super) Arc<dyn TransactionParticipant>);

#[async_trait]
impl TransactionParticipant for Opened {
    fn resource_id(&self) -> &ResourceId {
        self.0.resource_id()
    }

    fn resource_type(&self) -> &'static str {
        self.0.resource_type()
    }

    async fn begin(&self, _: &BranchId) -> Result<(), RmError> {
        Ok(())
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        self.0.prepare(branch).await
    }

    async fn pre_commit(&self, branch: &BranchId) -> Result<(), RmError> {
        self.0.pre_commit(branch).await
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.0.commit(branch).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.0.rollback(branch).await
    }

    async fn leave(&self) {
        self.0.leave().await;
    }
}
