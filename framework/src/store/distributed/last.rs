//! A last resource in SQL: a database that only commits, with a marker that tells whether it did.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use sqlx::Pool;
use tokio::sync::Mutex;

use super::{marker, markers};
use crate::{
    distributed::{
        Ack, BranchId, CoordinatorId, Decision, Health, Heuristic, Resource, ResourceId, RmError,
        TransactionParticipant, Vote, core::BranchKind,
    },
    error::{Error, Result},
    limits,
    store::{
        backend::Backend,
        connection::UnitConnection,
        kept::Kept,
        statement::{Opening, Writes},
        unit::SqlUnit,
    },
    unit_of_work::Unit as _,
};

/// A database that cannot be prepared (SQLite), or is not meant to be. At most one of a transaction, and not together with a home
/// unit of work: there is one commit point.
pub struct SqlLastResource<DB: Backend> {
    id: ResourceId,
    kept: Arc<Kept<DB>>,
}

impl<DB: Backend> SqlLastResource<DB> {
    /// The database of `pool` under a name that is the same in every process.
    #[must_use]
    pub fn new(id: ResourceId, pool: Pool<DB>) -> Arc<Self> {
        Arc::new(Self { id, kept: Kept::new(pool) })
    }

    /// The branch of one transaction.
    #[must_use]
    pub fn branch(self: &Arc<Self>) -> SqlLast<DB> {
        SqlLast { resource: Arc::clone(self), open: Arc::default() }
    }
}

#[async_trait]
impl<DB: Backend> Resource for SqlLastResource<DB> {
    fn id(&self) -> &ResourceId {
        &self.id
    }

    async fn prepared(&self, _: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        Ok(Vec::new())
    }

    /// Its marker is the decision: told to roll back, it says whether it had committed, and can no longer do so afterwards.
    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        match decision {
            Decision::Abort => markers::tombstone(self.kept.pool(), branch).await,
            Decision::Commit => match markers::marked(self.kept.pool(), branch).await?.as_deref() {
                Some("branch") => Ok(Ack::Done),
                _ => Ok(Ack::Heuristic(Heuristic::RolledBack)),
            },
        }
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), RmError> {
        markers::forget(self.kept.pool(), branch).await
    }

    async fn health(&self) -> Health {
        let asked = Instant::now();
        let answer = DB::check_schema(self.kept.pool()).await;
        let detail = answer.as_ref().map_or_else(Error::to_string, |()| DB::DISPLAY.to_owned());
        Health { healthy: answer.is_ok(), detail, latency: asked.elapsed() }
    }
}

/// The last resource of one transaction. Clones are the same branch.
pub struct SqlLast<DB: Backend> {
    resource: Arc<SqlLastResource<DB>>,
    open: Arc<Mutex<Option<SqlUnit<DB>>>>,
}

impl<DB: Backend> Clone for SqlLast<DB> {
    fn clone(&self) -> Self {
        Self { resource: Arc::clone(&self.resource), open: Arc::clone(&self.open) }
    }
}

impl<DB: Backend> SqlLast<DB> {
    /// Works in the branch.
    ///
    /// # Errors
    /// When it is not open, or what `work` says.
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&mut UnitConnection<DB>) -> Result<T>) -> Result<T> {
        let mut open = self.open.lock().await;
        let unit =
            open.as_mut().ok_or_else(|| Error::new("the branch is not open: begin the transaction first"))?;
        work(&mut unit.connection).await
    }
}

#[async_trait]
impl<DB: Backend> TransactionParticipant for SqlLast<DB> {
    fn resource_id(&self) -> &ResourceId {
        &self.resource.id
    }

    fn resource_type(&self) -> &'static str {
        DB::RESOURCE_TYPE
    }

    fn kind(&self) -> BranchKind {
        BranchKind::Last
    }

    async fn begin(&self, _: &BranchId) -> Result<(), RmError> {
        let opened = SqlUnit::open(&self.resource.kept, &Opening::default()).await;
        let (unit, _) = opened.map_err(|error| RmError::Retryable(error.to_string()))?;
        *self.open.lock().await = Some(unit);
        Ok(())
    }

    async fn prepare(&self, _: &BranchId) -> Result<Vote, RmError> {
        Ok(Vote::No { reason: "a last resource cannot be prepared".to_owned() })
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        let open = tokio::time::timeout(limits::GUARD_WAIT, self.open.lock()).await;
        let mut open = open.map_err(|_| RmError::Retryable("the branch is still being used".to_owned()))?;
        let Some(mut unit) = open.take() else {
            return self.resource.finish(branch, Decision::Commit).await;
        };
        let doomed = unit.doomed();
        let staged = unit.stage(Writes { outbox: Vec::new(), statements: vec![marker(branch)] });
        let committed = match (doomed, staged) {
            (None, Ok(())) => unit.commit().await.map_err(|error| error.to_string()),
            (Some(error), _) | (_, Err(error)) => Err(error.to_string()),
        };
        match committed {
            Ok(()) => Ok(Ack::Done),
            Err(error) => {
                // The connection is closed when this fails, which rolls back too.
                drop(unit.rollback().await);
                Err(RmError::Unknown(error))
            }
        }
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        if let Some(mut unit) = self.open.lock().await.take() {
            drop(unit.rollback().await); // see above
        }
        self.resource.finish(branch, Decision::Abort).await
    }
}
