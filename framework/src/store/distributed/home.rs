//! The home unit of work: the one transaction whose COMMIT is the decision.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::log::{SqlDecisionLog, commit_statements};
use crate::{
    distributed::{Gid, ProcessError, ProcessKey, home::Home},
    error::{Error, Result},
    limits,
    store::{
        backend::Backend,
        connection::UnitConnection,
        keys,
        statement::{Opening, Writes},
        unit::{SqlUnit, bounded},
    },
    transport::OutgoingRow,
    unit_of_work::{CommitError, Unit as _},
};

/// The home unit of work of one distributed transaction. Clones are the same unit.
pub struct SqlHome<DB: Backend> {
    log: Arc<SqlDecisionLog<DB>>,
    open: Arc<Mutex<Option<SqlUnit<DB>>>>,
    outbox: Arc<std::sync::Mutex<Vec<OutgoingRow>>>,
}

impl<DB: Backend> Clone for SqlHome<DB> {
    fn clone(&self) -> Self {
        Self { log: Arc::clone(&self.log), open: Arc::clone(&self.open), outbox: Arc::clone(&self.outbox) }
    }
}

/// The home connection, while it is used. Give it back (drop it) before the transaction is ended.
pub struct HomeGuard<DB: Backend>(OwnedMutexGuard<Option<SqlUnit<DB>>>);

impl<DB: Backend> SqlHome<DB> {
    /// A unit in the database of `log`.
    #[must_use]
    pub fn new(log: &Arc<SqlDecisionLog<DB>>) -> Self {
        Self { log: Arc::clone(log), open: Arc::default(), outbox: Arc::default() }
    }

    /// The connection, once the transaction has begun.
    ///
    /// # Errors
    /// When it has not begun, or has ended.
    pub async fn connection(&self) -> Result<HomeGuard<DB>> {
        let guard = self.held().await?;
        if guard.is_none() {
            return Err(Error::new("the home unit of work is not open: begin the transaction first"));
        }
        Ok(HomeGuard(guard))
    }

    /// Rows that enter the outbox with the commit.
    pub fn publish(&self, rows: impl IntoIterator<Item = OutgoingRow>) {
        self.outbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(rows);
    }

    /// Inserts a key as the first write; what came out when it was done before.
    pub(crate) async fn claim<T: DeserializeOwned>(
        &self,
        key: &ProcessKey,
    ) -> Result<Option<T>, ProcessError> {
        let failed = |cause| ProcessError::Database { key: key.key.clone(), cause };
        let mut place = self.held().await.map_err(failed)?;
        match place.as_mut() {
            Some(unit) => keys::claim(unit, key).await,
            None => Err(failed(Error::new("the home unit of work is not open"))),
        }
    }

    /// Writes the result of a key that was claimed.
    pub(crate) async fn keep(&self, key: &ProcessKey, result: &impl Serialize) -> Result<(), ProcessError> {
        let statement = keys::kept::<DB>(key, result)?;
        let keep = async {
            let mut place = self.held().await?;
            let unit = place.as_mut().ok_or_else(|| Error::new("the home unit of work is not open"))?;
            bounded(async { Ok(unit.connection.ask(&statement).await.map(drop)?) }).await
        };
        keep.await.map_err(|cause| ProcessError::Database { key: key.key.clone(), cause })
    }

    async fn held(&self) -> Result<OwnedMutexGuard<Option<SqlUnit<DB>>>> {
        let held = tokio::time::timeout(limits::GUARD_WAIT, Arc::clone(&self.open).lock_owned()).await;
        held.map_err(|_| {
            Error::new("a guard of the home connection is still held: drop it before the transaction ends")
        })
    }
}

#[async_trait]
impl<DB: Backend> Home for SqlHome<DB> {
    async fn begin(&self) -> Result<()> {
        let mut place = self.held().await?;
        *place = Some(SqlUnit::open(&self.log.kept, &Opening::default()).await?.0);
        Ok(())
    }

    async fn commit(&self, decide: Option<(Gid, Vec<u16>)>) -> Result<(), CommitError> {
        let mut place = self.held().await.map_err(CommitError::Failed)?;
        let mut unit = place
            .take()
            .ok_or_else(|| CommitError::Failed(Error::new("the home unit of work is not open")))?;
        if let Some(cause) = unit.doomed() {
            // The connection is closed when this fails, which rolls back too.
            drop(unit.rollback().await);
            return Err(CommitError::Failed(cause));
        }
        let outbox =
            std::mem::take(&mut *self.outbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let statements =
            decide.map(|(gid, read_only)| commit_statements::<DB>(gid, &read_only)).unwrap_or_default();
        unit.stage(Writes { outbox, statements }).map_err(CommitError::Failed)?;
        let answer = unit.commit().await;
        if answer.is_err() {
            drop(unit.rollback().await); // see above
        }
        answer
    }

    async fn rollback(&self) -> Result<()> {
        match self.held().await?.take() {
            Some(mut unit) => unit.rollback().await,
            None => Ok(()),
        }
    }
}

impl<DB: Backend> Deref for HomeGuard<DB> {
    type Target = UnitConnection<DB>;

    #[allow(clippy::expect_used)] // looked at when the guard was made, and nobody else can take it
    fn deref(&self) -> &Self::Target {
        &self.0.as_ref().expect("a guard is only made of an open unit").connection
    }
}

impl<DB: Backend> DerefMut for HomeGuard<DB> {
    #[allow(clippy::expect_used)] // see above
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0.as_mut().expect("a guard is only made of an open unit").connection
    }
}
