//! The SQL unit of work: one transaction, one connection, two round trips around the handler's own.
//!
//! Begun by the unit-of-work step. The connection is held by our guard from before the opening text is sent until after
//! the closing text was answered; dropped anywhere in between, it is severed and never goes back to the pool, so that no
//! borrower ever finds itself inside somebody else's transaction. It does not use sqlx's `Transaction`, whose `commit()`
//! answers Ok for a transaction that the server rolled back.

use std::{any::Any, future::Future, sync::Arc};

use async_trait::async_trait;
use sqlx::{Connection as _, Pool, pool::PoolConnection};
use tokio::sync::OwnedMutexGuard;

use super::{
    attempts::SqlAttempts,
    backend::{Backend, IdempotencyKey, Opened, Recorded, Verdict, sever},
    connection::UnitConnection,
    idempotency::{Mark, SqlRecords},
    kept::Kept,
    results::SqlResults,
    saga::SqlSagas,
    schedule::SqlScheduleStore,
    statement::{Opening, Writes},
};
use crate::{
    error::{Error, Result},
    incoming::Incoming,
    limits,
    unit_of_work::{Batches, Begun, Capabilities, CommitError, Unit, UnitOfWork},
};

mod batch;

/// Units of work on a sqlx pool of PostgreSQL, MariaDB/MySQL or SQLite.
///
/// ```no_run
/// # async fn doc() -> Result<(), Box<dyn std::error::Error>> {
/// use barid::SqlUnitOfWork;
/// let pool = sqlx::SqlitePool::connect("sqlite://orders.db").await?;
/// let unit = SqlUnitOfWork::new(pool).commit_with_transaction(true);
/// # let _ = unit; Ok(()) }
/// ```
pub struct SqlUnitOfWork<DB: Backend> {
    pub(super) kept: Arc<Kept<DB>>,
    commit_with_transaction: Option<bool>,
}

impl<DB: Backend> SqlUnitOfWork<DB> {
    /// Units on connections of `pool`. The pool should have at least as many connections as the bus has parallelism.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self { kept: Kept::new(pool), commit_with_transaction: None }
    }

    #[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
    pub(crate) fn pool(&self) -> &Pool<DB> {
        self.kept.pool()
    }

    /// When the unit commits: with the transaction context, or (`false`, the default) right after the handlers.
    ///
    /// Outbox, idempotency and everything else that must commit together with business rows needs `true`.
    #[must_use]
    pub fn commit_with_transaction(mut self, yes: bool) -> Self {
        self.commit_with_transaction = Some(yes);
        self
    }
}

#[async_trait]
impl<DB: Backend> UnitOfWork for SqlUnitOfWork<DB> {
    async fn begin(&self, _: &Incoming, opening: &Opening) -> Result<Begun> {
        let (unit, recorded) = SqlUnit::open(&self.kept, opening).await?;
        Ok(match recorded {
            Recorded::Fresh => Begun::Fresh(Box::new(unit)),
            Recorded::Duplicate => Begun::Duplicate(Box::new(unit)),
            Recorded::InProgress => {
                Box::pin(unit.discard()).await;
                Begun::InProgress
            }
        })
    }

    async fn ready(&self) -> Result<()> {
        DB::check_schema(self.kept.pool()).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            database: Some(DB::DISPLAY),
            connection: Some((std::any::TypeId::of::<DB>(), std::any::type_name::<DB>())),
            attempts: Some(Arc::new(SqlAttempts::new(Arc::clone(&self.kept)))),
            records: Some(Arc::new(SqlRecords(Arc::clone(&self.kept)))),
            results: Some(Arc::new(SqlResults(Arc::clone(&self.kept)))),
            sagas: Some(Arc::new(SqlSagas::new(Arc::clone(&self.kept)))),
            schedule: Some(Arc::new(SqlScheduleStore(Arc::clone(&self.kept)))),
            branches: Vec::new(),
            background: None,
        }
    }

    fn batches(&self) -> Option<Arc<dyn Batches>> {
        Some(Arc::new(batch::SqlBatches(Arc::clone(&self.kept))))
    }

    fn commit_with_transaction(&self) -> Option<bool> {
        self.commit_with_transaction
    }
}

/// One open transaction.
pub(crate) struct SqlUnit<DB: Backend> {
    pub(crate) connection: UnitConnection<DB>,
    key: Option<IdempotencyKey>,
    mark: Option<Mark>,
    /// The rows of each read of the opening text, for whoever asked for them.
    pub(crate) reads: Vec<Vec<DB::Row>>,
    writes: Writes,
    kept: Arc<Kept<DB>>,
    /// Where the database has one writer: ours until the connection is gone.
    writer: Option<OwnedMutexGuard<()>>,
}

impl<DB: Backend> SqlUnit<DB> {
    /// The unit of this kind that `unit` is, or wraps.
    pub(crate) fn of(unit: &mut dyn Unit) -> Option<&mut Self> {
        if unit.home().is_some() {
            unit.home().and_then(Self::of)
        } else {
            (unit as &mut dyn Any).downcast_mut()
        }
    }

    /// Writes that join the staged ones.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(super) fn add(&mut self, statements: Vec<super::statement::Statement>) {
        self.writes.statements.extend(statements);
    }

    pub(super) async fn open(kept: &Arc<Kept<DB>>, opening: &Opening) -> Result<(Self, Recorded)> {
        let writer = DB::writer(kept.pool()).await;
        let (connection, reused) = kept.take().await?;
        let mut unit = Self {
            connection: UnitConnection::hold(connection),
            key: opening.key.clone(),
            mark: opening.mark,
            reads: Vec::new(),
            writes: Writes::default(),
            kept: Arc::clone(kept),
            writer,
        };
        unit.connection.prepared = kept.prepared();
        let begun = async {
            match unit.connection.open(opening).await {
                // A connection that nobody tested since its last use may have died meanwhile; nothing was begun on it.
                Err(error) if reused && DB::verdict(&error) == Verdict::Unknown => {
                    let again = async {
                        unit.connection.replace(kept.acquire().await?);
                        Ok::<_, Error>(unit.connection.open(opening).await?)
                    };
                    // Boxed, like everything that is rare here: the size of this future is copied for every message.
                    Box::pin(again).await
                }
                answer => Ok(answer?),
            }
        };
        let Opened { recorded, reads } =
            bounded(begun).await.map_err(|error| error.context("the unit of work cannot begin"))?;
        unit.reads = reads;
        if recorded != Recorded::Fresh {
            // The record is another transaction's: it says nothing about this one.
            unit.key = None;
        }
        Ok((unit, recorded))
    }

    /// Ends a unit in which nothing happened.
    pub(super) async fn discard(mut self) {
        // A failure severs the connection, and there is nothing to lose on it.
        drop(self.connection.roll_back().await);
        self.release();
    }

    /// Gives the connection back (or severs it, when something is open on it), then the right to write. As early as
    /// possible: counting an attempt needs both.
    fn release(&mut self) {
        self.connection.give_back(&self.kept);
        self.writer = None;
    }

    /// Closes the connection, [`SqlUnit::resolve`], and then lets others write: whatever came out, counting attempts comes
    /// before the unit is closed and needs the right to write that this unit would otherwise keep.
    async fn find_out(&mut self, lost: Error) -> Result<(), CommitError> {
        self.connection.close_hard().await;
        let outcome = self.resolve(lost).await;
        self.release();
        outcome
    }

    /// Finds out what became of a COMMIT whose answer was lost, by inserting the same record elsewhere: a committed record
    /// refuses it, an uncommitted one makes it wait. Reading would not do, the record can be committed and not yet visible.
    async fn resolve(&mut self, lost: Error) -> Result<(), CommitError> {
        let Some(key) = &self.key else {
            return Err(CommitError::Unknown(
                lost.context("without an idempotency record of its own the outcome cannot be found out"),
            ));
        };
        let probe = async {
            let mut probe = UnitConnection::hold(self.kept.acquire().await?);
            let opening = Opening { key: Some(key.clone()), mark: self.mark, reads: Vec::new() };
            let Opened { recorded, .. } = probe.open(&opening).await?;
            // The probe must leave no record behind; severing it on an error does that too.
            probe.roll_back().await?;
            probe.give_back(&self.kept);
            Ok::<_, Error>(recorded)
        };
        match tokio::time::timeout(limits::CALL_TIMEOUT, probe).await {
            Ok(Ok(Recorded::Duplicate)) => {
                tracing::info!(message_id = %key.message_id, cause = %lost, "the answer to COMMIT was lost, it had committed");
                Ok(())
            }
            Ok(Ok(Recorded::Fresh)) => {
                Err(CommitError::Failed(lost.context("the answer to COMMIT was lost, it had not committed")))
            }
            Ok(Ok(Recorded::InProgress)) => {
                Err(CommitError::Unknown(lost.context("its transaction has not ended yet")))
            }
            Ok(Err(error)) => Err(CommitError::Unknown(lost.context(error))),
            Err(_) => Err(CommitError::Unknown(lost.context("the database did not say in time"))),
        }
    }
}

#[async_trait]
impl<DB: Backend> Unit for SqlUnit<DB> {
    fn stage(&mut self, writes: Writes) -> Result<()> {
        self.writes = writes;
        Ok(())
    }

    fn doomed(&self) -> Option<Error> {
        self.connection.poisoned().map(Error::new)
    }

    async fn commit(&mut self) -> Result<(), CommitError> {
        if let Some(cause) = self.connection.poisoned() {
            return Err(CommitError::Failed(Error::new(cause)));
        }
        let writes = std::mem::take(&mut self.writes);
        let answer = tokio::time::timeout(limits::CALL_TIMEOUT, self.connection.finish(&writes)).await;
        match answer {
            Ok(Ok(())) => {
                self.release();
                Ok(())
            }
            Ok(Err(error)) if DB::verdict(&error) == Verdict::Refused => {
                Err(CommitError::Failed(closing_refused(error)))
            }
            Ok(Err(error)) => Box::pin(self.find_out(Error::from(error))).await,
            Err(_) => Box::pin(self.find_out(Error::new("COMMIT was not answered in time"))).await,
        }
    }

    async fn rollback(&mut self) -> Result<()> {
        let answer = match tokio::time::timeout(limits::CALL_TIMEOUT, self.connection.roll_back()).await {
            Ok(answer) => answer
                .map_err(|error| Error::from(error).context("rollback failed, the connection was closed")),
            Err(_) => Err(Error::new("ROLLBACK was not answered in time, the connection was closed")),
        };
        self.release();
        answer
    }

    async fn close(&mut self) -> Result<()> {
        self.release();
        Ok(())
    }
}

/// A call to the database that nobody has to wait for without end.
pub(crate) async fn bounded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = tokio::time::timeout(limits::CALL_TIMEOUT, call).await;
    answer.unwrap_or_else(|_| Err(Error::new(format!("no answer within {:?}", limits::CALL_TIMEOUT))))
}

/// The closing text begins with the release of our savepoint: when that is what failed, somebody ended the transaction.
fn closing_refused(error: sqlx::Error) -> Error {
    let said = error.to_string();
    if said.contains("barid_unit") || said.contains("can only be used in transaction blocks") {
        Error::new(format!(
            "the transaction was ended by a handler: a COMMIT, ROLLBACK or DDL statement ran inside the unit of work. What it \
             committed stays, the message fails. Take that statement out of the handler ({said})"
        ))
    } else {
        Error::from(error).context("COMMIT was refused")
    }
}

impl<DB: Backend> UnitConnection<DB> {
    /// Closes whatever connection is held instead of giving it back.
    fn sever(&mut self) {
        if let Some(connection) = self.take() {
            sever(connection);
        }
    }

    /// Closes the connection and waits until it is closed, for a bounded time: on SQLite it holds the file's lock until then.
    pub(super) async fn close_hard(&mut self) {
        if let Some(connection) = self.take() {
            // However the closing ends, the connection is gone and the database rolls back what was open on it.
            drop(tokio::time::timeout(limits::GUARD_WAIT, connection.detach().close_hard()).await);
        }
    }

    fn replace(&mut self, connection: PoolConnection<DB>) {
        self.sever();
        *self = Self::hold(connection);
    }
}
