//! Applies the schema to SQLite: all of it in one writing transaction, which is the lock.

use sqlx::{Executor, Sqlite, SqliteConnection, SqlitePool};

use super::{Migration, SchemaError, bookkeeping, compare, migrations};
use crate::store::{
    held::{CommitError, HeldTransaction},
    pool::Dialect,
};

pub(super) async fn apply(pool: &SqlitePool, place: &str) -> Result<Vec<Migration>, SchemaError> {
    let failed = |cause| SchemaError::Database { place: place.to_owned(), cause };
    let mut held = HeldTransaction::<Sqlite>::begin_immediate(pool).await.map_err(failed)?;
    let status = rows(held.connection()).await.map_err(failed)?;
    let status = compare::compare(place, migrations(Dialect::Sqlite), status)?;
    status.check_not_newer(place)?;
    held.connection().execute(bookkeeping(Dialect::Sqlite)).await.map_err(failed)?;
    for step in &status.pending {
        run(held.connection(), step).await.map_err(|cause| SchemaError::Failed {
            place: place.to_owned(),
            version: step.version,
            name: step.name,
            cause,
        })?;
    }
    match held.commit().await {
        Ok(()) => Ok(status.pending),
        Err(CommitError::NotCommitted(cause) | CommitError::Unknown(cause)) => Err(failed(cause)),
    }
}

async fn run(connection: &mut SqliteConnection, step: &Migration) -> Result<(), sqlx::Error> {
    connection.execute(step.sql).await?;
    let insert = "INSERT INTO barid_schema (version, name, checksum) VALUES (?, ?, ?)";
    let insert = sqlx::query(insert).bind(i64::from(step.version)).bind(step.name).bind(step.checksum());
    insert.execute(connection).await.map(drop)
}

pub(super) async fn applied(pool: &SqlitePool) -> Result<Vec<compare::Row>, sqlx::Error> {
    rows(&mut *pool.acquire().await?).await
}

/// The rows of the table, none when it does not exist.
async fn rows(connection: &mut SqliteConnection) -> Result<Vec<compare::Row>, sqlx::Error> {
    let exists = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'barid_schema'";
    if sqlx::query_scalar::<_, i64>(exists).fetch_one(&mut *connection).await? == 0 {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, name, checksum FROM barid_schema").fetch_all(connection).await
}
