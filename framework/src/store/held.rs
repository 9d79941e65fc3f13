//! A transaction on a connection that is held until it is known how it ended.
//!
//! sqlx's `Pool::begin` leaves an open transaction on a pooled connection when its future is dropped at the wrong moment, and
//! its `commit` does not tell "did not commit" from "nobody knows". [`HeldTransaction`] does neither: a connection goes back
//! to the pool only after COMMIT or ROLLBACK was answered, and is closed in every other case.
//!
//! Called by the SQL queue and by whoever else needs a short transaction of its own; a handler's unit of work has its own
//! guard.

use std::fmt;

use sqlx::{Database, Executor, Pool, pool::PoolConnection};
#[cfg(feature = "sqlite")]
use {crate::store::sqlite::lock::file_lock, sqlx::Sqlite};

/// A transaction that rolls back when it is dropped.
pub struct HeldTransaction<DB: Database> {
    connection: Option<PoolConnection<DB>>,
    abandon: fn(PoolConnection<DB>, Option<WriterGuard>),
    /// SQLite: the right to write, held until the transaction has ended.
    writer: Option<WriterGuard>,
}

type WriterGuard = tokio::sync::OwnedMutexGuard<()>;

/// Why a transaction has no certain commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The database refused: nothing was committed.
    #[error("not committed: {0}")]
    NotCommitted(#[source] sqlx::Error),
    /// The answer was lost: it may have been committed or not.
    #[error("the answer to COMMIT was lost, so it may have been committed: {0}")]
    Unknown(#[source] sqlx::Error),
}

impl<DB: Database> HeldTransaction<DB>
where
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
{
    /// Takes a connection and opens a transaction with `text`, for instance `BEGIN`.
    ///
    /// # Errors
    /// When no connection can be had in the pool's time, or the database refuses the text.
    pub async fn begin(pool: &Pool<DB>, text: &'static str) -> Result<Self, sqlx::Error> {
        let held = Self { connection: Some(pool.acquire().await?), abandon: close, writer: None };
        held.opened(text).await
    }

    async fn opened(mut self, text: &'static str) -> Result<Self, sqlx::Error> {
        self.connection().execute(text).await?;
        Ok(self)
    }

    /// The connection, to run statements in the transaction.
    ///
    /// # Panics
    /// Never: the connection is there until commit or rollback, which take `self`.
    pub fn connection(&mut self) -> &mut DB::Connection {
        self.connection.as_mut().expect("a held transaction has its connection until it ends")
    }

    /// Commits. The connection goes back to the pool only when the database answered.
    ///
    /// # Errors
    /// [`CommitError`], which says whether the outcome is known.
    pub async fn commit(self) -> Result<(), CommitError> {
        self.commit_by("COMMIT").await
    }

    /// Commits with a text that begins with COMMIT and goes on to give back what the session holds.
    pub(crate) async fn commit_by(mut self, text: &'static str) -> Result<(), CommitError> {
        match self.connection().execute(text).await {
            Ok(_) => {
                self.connection = None;
                Ok(())
            }
            Err(error) if commit_is_known_to_have_failed(&error) => Err(CommitError::NotCommitted(error)),
            Err(error) => Err(CommitError::Unknown(error)),
        }
    }

    /// Rolls back. After an error the connection is closed, which rolls back too.
    ///
    /// # Errors
    /// When the database did not answer.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.connection().execute("ROLLBACK").await?;
        self.connection = None;
        Ok(())
    }
}

#[cfg(feature = "sqlite")]
impl HeldTransaction<Sqlite> {
    /// Waits for the file's in-process lock, takes a connection and begins a writing transaction (`BEGIN IMMEDIATE`).
    ///
    /// # Errors
    /// When no connection can be had in the pool's time, or another process writes for longer than the busy timeout.
    pub async fn begin_immediate(pool: &Pool<Sqlite>) -> Result<Self, sqlx::Error> {
        let writer = file_lock(pool).lock_owned().await;
        let held =
            Self { connection: Some(pool.acquire().await?), abandon: roll_back_later, writer: Some(writer) };
        held.opened("BEGIN IMMEDIATE").await
    }
}

impl<DB: Database> Drop for HeldTransaction<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            (self.abandon)(connection, self.writer.take());
        }
    }
}

impl<DB: Database> fmt::Debug for HeldTransaction<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldTransaction").field("open", &self.connection.is_some()).finish_non_exhaustive()
    }
}

/// Whether this answer to COMMIT proves that nothing was committed.
///
/// Only what the database itself said counts, and not what it said while it was going down: PostgreSQL may end a session
/// after the commit is on disk (57P01 to 57P05), MariaDB and MySQL likewise (1053, 1317, 1927, 3169).
#[must_use]
pub fn commit_is_known_to_have_failed(error: &sqlx::Error) -> bool {
    let Some(answer) = error.as_database_error() else { return false };
    #[cfg(feature = "mysql")]
    if let Some(answer) = answer.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return !matches!(answer.number(), 1053 | 1317 | 1927 | 3169);
    }
    let code = answer.code().unwrap_or_default();
    #[cfg(feature = "sqlite")]
    if answer.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // An I/O error (10, in the low byte) can come after the journal was written.
        return code.parse::<i32>().is_ok_and(|code| code & 0xff != 10);
    }
    !(code.starts_with("57P") || code.starts_with("08") || code == "40003")
}

/// Closes the connection: the server rolls back when it sees the end of it.
fn close<DB: Database>(connection: PoolConnection<DB>, _writer: Option<WriterGuard>) {
    drop(connection.detach());
}

/// SQLite: rolls back in the background and keeps the connection, because closing the last connection of an in-memory
/// database would lose the database. Without a runtime there is nobody to do it, and the connection is closed.
#[cfg(feature = "sqlite")]
fn roll_back_later(mut connection: PoolConnection<Sqlite>, writer: Option<WriterGuard>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return close(connection, writer);
    };
    runtime.spawn(async move {
        // After a failed BEGIN, and after some errors, there is no transaction left to roll back. Nothing else can fail here
        // that closing the connection would not answer.
        if let Err(error) = connection.execute("ROLLBACK").await
            && error.as_database_error().is_none()
        {
            connection.close_on_drop();
        }
        drop(connection);
        drop(writer);
    });
}
