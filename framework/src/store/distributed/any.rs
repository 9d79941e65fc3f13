//! Decision logs and resources of a database that is only known at run time.

use std::sync::Arc;

use async_trait::async_trait;

#[cfg(any(feature = "postgres", feature = "mysql"))]
use super::branch::SqlResource;
#[cfg(feature = "sqlite")]
use super::last::SqlLastResource;
use super::{
    events::{EventStoreResource, classify},
    log::SqlDecisionLog,
};
use crate::{
    distributed::{
        Ack, BranchId, CoordinatorId, Decision, DecisionLog, Health, Heuristic, Resource, ResourceId, RmError,
    },
    event_store::{EventStore, StagedEvents, StagedOutcome},
    store::{backend::Backend, pool::AnyPool},
};

/// The decision log in this database.
#[must_use]
pub fn decision_log(pool: &AnyPool) -> Arc<dyn DecisionLog> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => Arc::new(SqlDecisionLog::new(pool.clone())),
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Arc::new(SqlDecisionLog::new(pool.clone())),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Arc::new(SqlDecisionLog::new(pool.clone())),
    }
}

/// This database as one that takes part. SQLite, which cannot be prepared, takes part as a last resource; its name and its marker are
/// all that recovery needs of either.
#[must_use]
pub fn resource(id: ResourceId, pool: &AnyPool) -> Arc<dyn Resource> {
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => SqlResource::new(id, pool.clone()),
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => SqlResource::new(id, pool.clone()),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => SqlLastResource::new(id, pool.clone()),
    }
}

/// This database as one whose event store takes part, staged or in a prepared branch: what the log calls `event_store` can be either.
#[must_use]
pub fn event_store(id: ResourceId, pool: &AnyPool) -> Arc<dyn Resource> {
    let branches = resource(id.clone(), pool);
    match pool {
        #[cfg(feature = "postgres")]
        AnyPool::Postgres(pool) => Streams::of(id, EventStore::new(pool.clone()), branches),
        #[cfg(feature = "mysql")]
        AnyPool::MySql(pool) => Streams::of(id, EventStore::new(pool.clone()), branches),
        #[cfg(feature = "sqlite")]
        AnyPool::Sqlite(pool) => Streams::of(id, EventStore::new(pool.clone()), branches),
    }
}

/// Asks what is staged first: that says whether it knows the branch.
struct Streams<DB: Backend> {
    staged: StagedEvents<DB>,
    stages: Arc<EventStoreResource<DB>>,
    branches: Arc<dyn Resource>,
}

impl<DB: Backend> Streams<DB> {
    fn of(id: ResourceId, store: EventStore<DB>, branches: Arc<dyn Resource>) -> Arc<dyn Resource> {
        let staged = StagedEvents::of(store.clone());
        Arc::new(Self { staged, stages: EventStoreResource::new(id, store), branches })
    }
}

#[async_trait]
impl<DB: Backend> Resource for Streams<DB> {
    fn id(&self) -> &ResourceId {
        self.branches.id()
    }

    async fn prepared(&self, coordinator: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        let mut all = self.stages.prepared(coordinator).await?;
        all.extend(self.branches.prepared(coordinator).await?);
        Ok(all)
    }

    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        if decision == Decision::Abort {
            // Both leave what a late prepare meets; only one of them can have committed.
            let staged = self.stages.finish(branch, decision).await?;
            let prepared = self.branches.finish(branch, decision).await?;
            return Ok(if staged == Ack::Done { prepared } else { staged });
        }
        let ended = self.staged.commit(&branch.to_string()).await;
        match ended.map_err(|error| classify::<DB>(&error))? {
            StagedOutcome::Committed => Ok(Ack::Done),
            StagedOutcome::RolledBack => Ok(Ack::Heuristic(Heuristic::RolledBack)),
            StagedOutcome::Missing => self.branches.finish(branch, decision).await,
        }
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), RmError> {
        self.stages.forget(branch).await?;
        self.branches.forget(branch).await
    }

    async fn health(&self) -> Health {
        self.branches.health().await
    }
}
