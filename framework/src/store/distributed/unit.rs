//! A unit of work of another database as a branch.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::branch::{SqlBranch, SqlResource, TwoPhase};
use crate::{
    distributed::{Ack, BranchId, ResourceId, RmError, TransactionParticipant, Vote},
    error::{Error, Result},
    message::Outgoing,
    outbox::Outbox,
    store::{connection::UnitConnection, unit::SqlUnitOfWork},
};

/// A unit of work of a database that can be prepared, as one branch of a distributed transaction. Clones are the same unit.
///
/// It begins with the transaction, work runs in it, and preparing makes it durable, together with the messages that it
/// [sends](Self::publish): they are rows of that database's outbox, so nothing leaves before the transaction has committed, and
/// committing sends nothing. Work that fails, or that was not carried to its end, makes the unit vote no.
///
/// A [`HandWritten`](crate::HandWritten) unit of work cannot be a branch: nothing could tell recovery what became of it. Write a
/// [`TransactionParticipant`] instead, and check it with `barid::testing`.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use barid::{Message, Outbox, SqlUnitOfWork, distributed::*, store::distributed::branch::TwoPhase};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "billing.charged")]
/// # struct Charged { order_id: u64 }
/// # async fn doc<DB: TwoPhase>(home: sqlx::SqlitePool, billing: SqlUnitOfWork<DB>) -> Result<(), Box<dyn std::error::Error>>
/// # where for<'c> &'c mut barid::UnitConnection<DB>: sqlx::Executor<'c, Database = DB> {
/// let log = Arc::new(SqlDecisionLog::new(home));
/// let billing = SqlResource::of(ResourceId::new("billing")?, &billing);
/// let coordinator = Coordinator::connect(log.clone(), [billing.clone() as _], Settings::default()).await?;
///
/// let mut unit = DistributedUnitOfWork::new(&coordinator);
/// let charge = UnitOfWorkParticipant::new(&billing).outbox(Outbox::new("shop"));
/// unit.register_home(SqlHome::new(&log))?;
/// unit.register_unit_of_work("billing", charge.clone())?;
/// unit.run(async || {
///     charge.work(async |db| {
///         sqlx::Executor::execute(db, "UPDATE account SET balance = balance - 10 WHERE id = 7").await?;
///         Ok(())
///     }).await?;
///     charge.publish(Charged { order_id: 7 }).await
/// }).await?;
/// # Ok(()) }
/// ```
pub struct UnitOfWorkParticipant<DB: TwoPhase> {
    branch: SqlBranch<DB>,
    outbox: Outbox,
    doomed: Arc<Mutex<Option<String>>>,
}

impl<DB: TwoPhase> SqlResource<DB> {
    /// The database of `units` under a name that is the same in every process; they share its pool.
    #[must_use]
    pub fn of(id: ResourceId, units: &SqlUnitOfWork<DB>) -> Arc<Self> {
        Self::new(id, units.pool().clone())
    }
}

impl<DB: TwoPhase> Clone for UnitOfWorkParticipant<DB> {
    fn clone(&self) -> Self {
        let (branch, outbox) = (self.branch.clone(), self.outbox.clone());
        Self { branch, outbox, doomed: Arc::clone(&self.doomed) }
    }
}

impl<DB: TwoPhase> UnitOfWorkParticipant<DB> {
    /// A unit of work in the database of `resource`, whose messages name the resource as their sender.
    #[must_use]
    pub fn new(resource: &Arc<SqlResource<DB>>) -> Self {
        let branch = resource.branch();
        let outbox = Outbox::new(branch.resource_id().as_str());
        Self { branch, outbox, doomed: Arc::default() }
    }

    /// How messages are encoded, where they go and who sends them. Chosen before the unit is registered.
    #[must_use]
    pub fn outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// Works in the unit.
    ///
    /// Dropped before it has returned, it is work that was not carried to its end.
    ///
    /// # Errors
    /// When the unit is not open, or what `work` says: the unit cannot commit any more then.
    pub async fn work<T>(&self, work: impl AsyncFnOnce(&mut UnitConnection<DB>) -> Result<T>) -> Result<T> {
        let mut db = self.branch.connection().await?;
        let unfinished = Unfinished::new(&self.doomed);
        let worked = work(&mut db).await;
        unfinished.ended(worked.as_ref().err());
        worked
    }

    /// Publishes an event to its subscribers, or sends a message where its route or [`Outgoing::to`] says, through the outbox of
    /// this database: its row commits with the unit.
    ///
    /// # Errors
    /// When it cannot be encoded or has nowhere to go: the unit cannot commit any more then.
    pub async fn publish(&self, message: impl Into<Outgoing>) -> Result<()> {
        let unfinished = Unfinished::new(&self.doomed);
        let rows = self.outbox.rows(vec![message.into()]).await;
        unfinished.ended(rows.as_ref().err());
        self.branch.publish(rows?);
        Ok(())
    }
}

/// Work under way: dropped before its end, the unit cannot commit.
struct Unfinished<'a> {
    doomed: &'a Mutex<Option<String>>,
    cause: Option<String>,
}

impl<'a> Unfinished<'a> {
    fn new(doomed: &'a Mutex<Option<String>>) -> Self {
        Self { doomed, cause: Some("work in the unit was interrupted before its end".to_owned()) }
    }

    fn ended(mut self, error: Option<&Error>) {
        self.cause = error.map(|error| format!("work in the unit failed: {error}"));
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(cause) = self.cause.take() {
            self.doomed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        }
    }
}

#[async_trait]
impl<DB: TwoPhase> TransactionParticipant for UnitOfWorkParticipant<DB> {
    fn resource_id(&self) -> &ResourceId {
        self.branch.resource_id()
    }

    fn resource_type(&self) -> &'static str {
        "unit_of_work"
    }

    async fn begin(&self, branch: &BranchId) -> std::result::Result<(), RmError> {
        self.branch.begin(branch).await
    }

    async fn prepare(&self, branch: &BranchId) -> std::result::Result<Vote, RmError> {
        let doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match doomed {
            Some(cause) => Ok(self.branch.refuse(cause).await),
            None => self.branch.prepare(branch).await,
        }
    }

    async fn pre_commit(&self, branch: &BranchId) -> std::result::Result<(), RmError> {
        self.branch.pre_commit(branch).await
    }

    async fn commit(&self, branch: &BranchId) -> std::result::Result<Ack, RmError> {
        self.branch.commit(branch).await
    }

    async fn rollback(&self, branch: &BranchId) -> std::result::Result<Ack, RmError> {
        self.branch.rollback(branch).await
    }

    async fn leave(&self) {
        self.branch.leave().await;
    }
}
