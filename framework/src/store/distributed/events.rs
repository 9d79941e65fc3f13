//! Streams of events that take part in a distributed transaction: staged, or in the branch of a database that can be prepared.
//!
//! Staged works on any database, SQLite too: what is prepared are rows that nobody reads, and streams that nobody else appends to
//! (see [`StagedEvents`]). In the home database events need no participant: they are appended on the home connection, with
//! [`EventStore::append_in`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;

use super::branch::{SqlBranch, TwoPhase};
use crate::{
    distributed::{
        Ack, BranchId, CoordinatorId, Decision, EventBranch, Health, Heuristic, Pressure, Resource,
        ResourceId, RmError, TransactionParticipant, Vote,
    },
    error::Error,
    event_store::{EventStore, EventStoreError, StagedAppend, StagedEvents, StagedOutcome},
    limits,
    store::{
        backend::{Backend, Verdict},
        contention,
        events::StagedAppends,
    },
};

/// An event store whose database takes part by staging. Give it to the [`Coordinator`](crate::distributed::Coordinator) of every
/// process, and take a [`participant`](Self::participant) of it for each transaction.
///
/// Its database may be one that cannot be prepared, or is not meant to be; on SQLite it must be another file than that of the home unit
/// of work, which is its only writer while it is open. What a transaction leaves in `event_transaction` is what
/// recovery asks, as it asks the markers of other branches.
pub struct EventStoreResource<DB: Backend> {
    id: ResourceId,
    staged: StagedEvents<DB>,
}

impl<DB: Backend> EventStoreResource<DB> {
    /// The streams of `store` under a name that is the same in every process.
    #[must_use]
    pub fn new(id: ResourceId, store: EventStore<DB>) -> Arc<Self> {
        Arc::new(Self { id, staged: StagedEvents::of(store) })
    }

    /// The streams, for one transaction.
    #[must_use]
    pub fn participant(self: &Arc<Self>) -> EventStoreParticipant<DB> {
        EventStoreParticipant { resource: Arc::clone(self), staging: Arc::default() }
    }
}

#[async_trait]
impl<DB: Backend> Resource for EventStoreResource<DB> {
    fn id(&self) -> &ResourceId {
        &self.id
    }

    async fn prepared(&self, coordinator: CoordinatorId) -> Result<Vec<BranchId>, RmError> {
        let found = self.staged.prepared(&BranchId::prefix(coordinator)).await;
        let found = found.map_err(|error| classify::<DB>(&error))?;
        Ok(found.iter().filter_map(|xid| BranchId::parse(xid)).collect())
    }

    async fn finish(&self, branch: &BranchId, decision: Decision) -> Result<Ack, RmError> {
        let xid = branch.to_string();
        let ended = match decision {
            Decision::Commit => self.staged.commit(&xid).await,
            Decision::Abort => self.staged.rollback(&xid).await,
        };
        Ok(match (decision, ended.map_err(|error| classify::<DB>(&error))?) {
            (Decision::Commit, StagedOutcome::Committed) | (Decision::Abort, StagedOutcome::RolledBack) => {
                Ack::Done
            }
            (Decision::Abort, StagedOutcome::Committed) => Ack::Heuristic(Heuristic::Committed),
            // Rolled back, or removed by hand with what it had staged.
            _ => Ack::Heuristic(Heuristic::RolledBack),
        })
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), RmError> {
        self.staged.forget(&branch.to_string()).await.map_err(|error| classify::<DB>(&error))
    }

    async fn health(&self) -> Health {
        let asked = Instant::now();
        let answer = self.staged.ready().await;
        let detail = answer.as_ref().map_or_else(Error::to_string, |()| DB::DISPLAY.to_owned());
        Health { healthy: answer.is_ok(), detail, latency: asked.elapsed() }
    }

    async fn pressure(&self) -> Result<Pressure, RmError> {
        let (used, oldest) = self.staged.pressure().await.map_err(|error| classify::<DB>(&error))?;
        Ok(Pressure { used, room: None, oldest })
    }
}

/// The streams of an event store in one transaction. Clones are the same participant.
///
/// Events are collected, and prepared together: they are staged, the versions of their streams are what was expected, and nobody
/// else appends to these streams until the transaction has ended. Committing cannot fail because of a version.
pub struct EventStoreParticipant<DB: Backend> {
    resource: Arc<EventStoreResource<DB>>,
    staging: Arc<Mutex<Staging>>,
}

/// How far a participant is.
#[derive(Default)]
enum Staging {
    /// The transaction has not begun, or this participant has ended.
    #[default]
    Closed,
    /// Events are taken.
    Open(StagedAppends),
    /// It was asked to prepare, and there was no answer.
    Asked,
    /// It has prepared.
    Prepared,
    /// There was nothing to prepare.
    ReadOnly,
}

impl<DB: Backend> Clone for EventStoreParticipant<DB> {
    fn clone(&self) -> Self {
        Self { resource: Arc::clone(&self.resource), staging: Arc::clone(&self.staging) }
    }
}

impl<DB: Backend> EventStoreParticipant<DB> {
    fn turn(&self, to: Staging) -> Staging {
        std::mem::replace(&mut *self.staging.lock().unwrap_or_else(PoisonError::into_inner), to)
    }
}

#[async_trait]
impl<DB: Backend> TransactionParticipant for EventStoreParticipant<DB> {
    fn resource_id(&self) -> &ResourceId {
        &self.resource.id
    }

    fn resource_type(&self) -> &'static str {
        "event_store"
    }

    async fn begin(&self, _: &BranchId) -> Result<(), RmError> {
        self.turn(Staging::Open(StagedAppends::default()));
        Ok(())
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        let appends = match self.turn(Staging::Asked) {
            Staging::Open(appends) => appends,
            Staging::Prepared => {
                self.turn(Staging::Prepared);
                return Ok(Vote::Prepared);
            }
            Staging::ReadOnly => {
                self.turn(Staging::ReadOnly);
                return Ok(Vote::ReadOnly);
            }
            Staging::Asked => return Err(RmError::Unknown("it was asked to prepare before".to_owned())),
            Staging::Closed => {
                self.turn(Staging::Closed);
                return Ok(Vote::No { reason: EventStoreError::NotOpen.to_string() });
            }
        };
        let appends = match appends.ready() {
            Ok(appends) if appends.is_empty() => {
                self.turn(Staging::ReadOnly);
                return Ok(Vote::ReadOnly);
            }
            Ok(appends) => appends,
            Err(reason) => {
                self.turn(Staging::Closed);
                return Ok(Vote::No { reason });
            }
        };
        match self.resource.staged.prepare(&branch.to_string(), appends).await {
            Ok(()) => {
                self.turn(Staging::Prepared);
                Ok(Vote::Prepared)
            }
            Err(error) if is_refusal(&error) => {
                self.turn(Staging::Closed);
                Ok(Vote::No { reason: error.to_string() })
            }
            Err(error) => Err(classify::<DB>(&error)),
        }
    }

    async fn pre_commit(&self, _: &BranchId) -> Result<(), RmError> {
        let health = self.resource.health().await;
        if health.healthy { Ok(()) } else { Err(RmError::Retryable(health.detail)) }
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.turn(Staging::Closed);
        self.resource.finish(branch, Decision::Commit).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        match self.turn(Staging::Closed) {
            // Nobody was asked to prepare, and now nobody will be.
            Staging::Open(_) => Ok(Ack::Done),
            _ => self.resource.finish(branch, Decision::Abort).await,
        }
    }
}

#[async_trait]
impl<DB: Backend> EventBranch for EventStoreParticipant<DB> {
    async fn add_events(&self, append: StagedAppend) -> Result<(), EventStoreError> {
        match &mut *self.staging.lock().unwrap_or_else(PoisonError::into_inner) {
            Staging::Open(appends) => appends.add(append),
            _ => Err(EventStoreError::NotOpen),
        }
    }
}

/// An event store in the branch of its database, together with whatever else is written there. Clones are the same branch.
pub struct SqlBranchEvents<DB: TwoPhase> {
    branch: SqlBranch<DB>,
    store: EventStore<DB>,
    /// Why events were not appended: the branch cannot commit without them.
    refused: Arc<Mutex<Option<String>>>,
}

impl<DB: TwoPhase> SqlBranch<DB> {
    /// The streams of `store`, which are in the database of this branch. Register it, with
    /// [`register_event_store`](crate::distributed::DistributedUnitOfWork::register_event_store), instead of the branch.
    ///
    /// Events are appended at once, so that a conflict shows where it can still be dealt with; others who append to the stream wait
    /// until the transaction has ended.
    #[must_use]
    pub fn events(&self, store: EventStore<DB>) -> SqlBranchEvents<DB> {
        SqlBranchEvents { branch: self.clone(), store, refused: Arc::default() }
    }
}

impl<DB: TwoPhase> Clone for SqlBranchEvents<DB> {
    fn clone(&self) -> Self {
        let (branch, store) = (self.branch.clone(), self.store.clone());
        Self { branch, store, refused: Arc::clone(&self.refused) }
    }
}

#[async_trait]
impl<DB: TwoPhase> TransactionParticipant for SqlBranchEvents<DB> {
    fn resource_id(&self) -> &ResourceId {
        self.branch.resource_id()
    }

    fn resource_type(&self) -> &'static str {
        "event_store"
    }

    async fn begin(&self, branch: &BranchId) -> Result<(), RmError> {
        self.branch.begin(branch).await
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, RmError> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match (self.branch.prepare(branch).await?, refused) {
            // The connection only knows that something failed.
            (Vote::No { .. }, Some(reason)) => Ok(Vote::No { reason }),
            (vote, _) => Ok(vote),
        }
    }

    async fn pre_commit(&self, branch: &BranchId) -> Result<(), RmError> {
        self.branch.pre_commit(branch).await
    }

    async fn commit(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.branch.commit(branch).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Ack, RmError> {
        self.branch.rollback(branch).await
    }

    async fn leave(&self) {
        self.branch.leave().await;
    }
}

#[async_trait]
impl<DB: TwoPhase> EventBranch for SqlBranchEvents<DB> {
    async fn add_events(&self, append: StagedAppend) -> Result<(), EventStoreError> {
        let opening = tokio::time::timeout(limits::GUARD_WAIT, self.branch.connection()).await;
        let Ok(Ok(mut db)) = opening else { return Err(EventStoreError::NotOpen) };
        match self.store.append_staged_in(&mut db, append).await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Whoever ignores the error must not commit without the events.
                db.poison();
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.get_or_insert_with(|| error.to_string());
                Err(error)
            }
        }
    }
}

/// Whether preparing was refused, so that nothing is staged.
fn is_refusal(error: &EventStoreError) -> bool {
    use EventStoreError::{Database, Timeout, Unknown};
    !matches!(error, Database { .. } | Timeout { .. } | Unknown { .. })
}

pub(super) fn classify<DB: Backend>(error: &EventStoreError) -> RmError {
    let text = error.to_string();
    match error {
        EventStoreError::Unknown { .. } => RmError::Unknown(text),
        EventStoreError::Database { cause, .. } => match cause.downcast_ref::<sqlx::Error>() {
            Some(cause) if contention::is_contention(cause) => RmError::Retryable(text),
            // A table or a right is missing.
            Some(cause) if DB::verdict(cause) == Verdict::Refused => RmError::Config(format!(
                "{text}: see that the schema is applied and that the role may write event_transaction, event_staged, \
                 event_stream and event_log"
            )),
            // Nothing was committed.
            _ => RmError::Retryable(text),
        },
        EventStoreError::Timeout { .. } | EventStoreError::Reserved { .. } => RmError::Retryable(text),
        _ => RmError::Permanent(text),
    }
}
