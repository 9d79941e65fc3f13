//! Keys of things that are done once, with their results: the table `idempotency_keys`.

use std::{fmt, future::Future, sync::Arc};

use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Database, Pool};

use super::{
    backend::{Backend, Recorded},
    connection::UnitConnection,
    kept::Kept,
    statement::{Opening, Statement, Writes},
    unit::{SqlUnit, bounded},
};
use crate::{
    distributed::idempotent::{ProcessError, ProcessKey, Processed},
    error::{Error, Result as UnitResult},
    unit_of_work::{CommitError, Unit},
};

/// The table `idempotency_keys` of one database.
pub trait KeyRows: Database {
    /// The column `key`, as the database wants it written.
    const KEY: &'static str;

    /// Inserts the key as the first write of a transaction.
    fn insert_key(
        connection: &mut Self::Connection,
        key: &ProcessKey,
    ) -> impl Future<Output = Result<Recorded, sqlx::Error>> + Send;

    /// Removes up to `rows_max` keys whose time is over.
    fn purge_keys(rows_max: u32) -> Statement;
}

/// The values of the columns of a key.
#[cfg_attr(not(any(feature = "postgres", feature = "mysql", feature = "sqlite")), allow(dead_code))]
pub(super) fn values<DB: Backend>(insert: Statement, key: &ProcessKey) -> Statement {
    let insert = insert.text(&key.key).sql(",").text(&key.scope).sql(",");
    let insert = insert.bytes(key.request.clone().map(bytes::Bytes::from)).sql(",");
    DB::due_in(insert, i64::try_from(key.kept_for.as_micros()).unwrap_or(i64::MAX))
}

/// Does things once for a key, in the database that a pool is open on. Clones share it.
///
/// ```no_run
/// # async fn doc(pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
/// use barid::distributed::{IdempotentProcessor, ProcessKey};
/// let processor = IdempotentProcessor::new(pool);
/// let key = ProcessKey::new("transfer-4711").scope("customer-7");
/// let paid: i64 = processor
///     .run(&key, |db| Box::pin(async move {
///         sqlx::query("UPDATE accounts SET balance = balance - 10 WHERE id = 7").execute(&mut *db).await?;
///         Ok(10)
///     }))
///     .await?
///     .into_result();
/// # let _ = paid; Ok(()) }
/// ```
pub struct IdempotentProcessor<DB: Backend>(Arc<Kept<DB>>);

/// The condition that finds a key.
fn of<DB: Backend>(statement: Statement, key: &ProcessKey) -> Statement {
    statement.sql(DB::KEY).sql("=").text(&key.key).sql(" AND scope=").text(&key.scope)
}

impl<DB: Backend> IdempotentProcessor<DB> {
    /// With the table in the database of `pool`. The schema must be there: `barid-relay schema apply`.
    #[must_use]
    pub fn new(pool: Pool<DB>) -> Self {
        Self(Kept::new(pool))
    }

    /// That the database has the table.
    ///
    /// # Errors
    /// What is missing and what to do about it.
    pub async fn ready(&self) -> UnitResult<()> {
        DB::check_schema(self.0.pool()).await
    }

    /// Does `work` in a transaction, unless it was done for this key before; then its result comes back.
    ///
    /// `work` cannot commit or roll back; when it fails, or is dropped, nothing of it stays, the key included.
    ///
    /// # Errors
    /// [`ProcessError`]. After [`ProcessError::Unknown`] the same call finds out; after every other error nothing was done.
    pub async fn run<T, W>(&self, key: &ProcessKey, work: W) -> Result<Processed<T>, ProcessError>
    where
        T: Serialize + DeserializeOwned + Send,
        W: for<'c> FnOnce(&'c mut UnitConnection<DB>) -> BoxFuture<'c, UnitResult<T>> + Send,
    {
        key.check()?;
        let failed = |cause: Error| ProcessError::Database { key: key.key.clone(), cause };
        let (mut unit, opened) = SqlUnit::open(&self.0, &Opening::default()).await.map_err(failed)?;
        let done = match opened {
            Recorded::InProgress => Err(ProcessError::InProgress { key: key.key.clone() }),
            _ => self.inside(&mut unit, key, work).await,
        };
        match done {
            Ok(Processed::Now(result)) => match unit.commit().await {
                Ok(()) => Ok(Processed::Now(result)),
                Err(CommitError::Failed(cause)) => Err(ProcessError::Failed { key: key.key.clone(), cause }),
                Err(CommitError::Unknown(cause)) => {
                    Err(ProcessError::Unknown { key: key.key.clone(), cause })
                }
            },
            other => {
                // When it fails the connection is closed, which rolls back too: `other` is what there is to say.
                drop(unit.rollback().await);
                other
            }
        }
    }

    async fn inside<T, W>(
        &self,
        unit: &mut SqlUnit<DB>,
        key: &ProcessKey,
        work: W,
    ) -> Result<Processed<T>, ProcessError>
    where
        T: Serialize + DeserializeOwned + Send,
        W: for<'c> FnOnce(&'c mut UnitConnection<DB>) -> BoxFuture<'c, UnitResult<T>> + Send,
    {
        if let Some(before) = claim(unit, key).await? {
            return Ok(Processed::Before(before));
        }
        let worked = work(&mut unit.connection).await;
        let result = worked.map_err(|cause| ProcessError::Failed { key: key.key.clone(), cause })?;
        let keep = kept::<DB>(key, &result)?;
        let failed = |cause: Error| ProcessError::Database { key: key.key.clone(), cause };
        unit.stage(Writes { outbox: Vec::new(), statements: vec![keep] }).map_err(failed)?;
        Ok(Processed::Now(result))
    }

    /// Removes up to `rows_max` keys whose time is over, and says how many there were. Call it now and then.
    ///
    /// # Errors
    /// When the database failed.
    pub async fn purge(&self, rows_max: u32) -> UnitResult<u64> {
        bounded(async {
            let _writer = DB::writer(self.0.pool()).await;
            let mut connection = self.0.acquire().await?;
            Ok(DB::ask(&mut connection, &DB::purge_keys(rows_max)).await?.0)
        })
        .await
    }
}

/// Inserts the key as the first write of a unit; what came out when it was done before.
pub(super) async fn claim<DB: Backend, T: DeserializeOwned>(
    unit: &mut SqlUnit<DB>,
    key: &ProcessKey,
) -> Result<Option<T>, ProcessError> {
    let connection = &mut unit.connection;
    let inserted = bounded(async { Ok(DB::insert_key(connection.live()?, key).await?) }).await;
    match inserted.map_err(|cause| ProcessError::Database { key: key.key.clone(), cause })? {
        Recorded::Fresh => Ok(None),
        Recorded::Duplicate => before(connection, key).await.map(Some),
        Recorded::InProgress => Err(ProcessError::InProgress { key: key.key.clone() }),
    }
}

/// Writes the result of a key that was claimed.
pub(super) fn kept<DB: Backend>(
    key: &ProcessKey,
    result: &impl Serialize,
) -> Result<Statement, ProcessError> {
    let keep = Statement::new("UPDATE idempotency_keys SET result=").text(key.encode(result)?);
    Ok(of::<DB>(keep.sql(" WHERE "), key))
}

/// What came out when it was done.
async fn before<DB: Backend, T: DeserializeOwned>(
    connection: &mut UnitConnection<DB>,
    key: &ProcessKey,
) -> Result<T, ProcessError> {
    let find = of::<DB>(Statement::new("SELECT result,request_hash FROM idempotency_keys WHERE "), key);
    let read = bounded(async {
        let (_, rows) = connection.ask(&find).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((DB::text_at(row, 0)?.unwrap_or_default(), DB::bytes_at(row, 1)?)))
    });
    let failed = |cause: Error| ProcessError::Database { key: key.key.clone(), cause };
    match read.await.map_err(failed)? {
        // It was there and is gone: its time was over. The next call does it anew.
        None => Err(ProcessError::InProgress { key: key.key.clone() }),
        Some((_, Some(request))) if key.request.as_ref().is_some_and(|asked| *asked != request) => {
            Err(ProcessError::OtherRequest { key: key.key.clone() })
        }
        Some((result, _)) => key.decode(&result),
    }
}

impl<DB: Backend> Clone for IdempotentProcessor<DB> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<DB: Backend> fmt::Debug for IdempotentProcessor<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotentProcessor").field("database", &DB::DISPLAY).finish_non_exhaustive()
    }
}
