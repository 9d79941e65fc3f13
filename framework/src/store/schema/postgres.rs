//! Applies the schema to PostgreSQL: all of it in one transaction, behind an advisory lock that ends with it.

use sqlx::{Executor, PgConnection, PgPool, Postgres};

use super::{Migration, SchemaError, bookkeeping, compare, migrations};
use crate::store::{
    held::{CommitError, HeldTransaction},
    pool::Dialect,
};

/// `APPLY_WAIT_S`, and "barid" in ASCII as the number of the lock.
const OPEN: &str = "BEGIN; SET LOCAL lock_timeout = '60s'; SELECT pg_advisory_xact_lock(422541683044)";

/// The code of `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

pub(super) async fn apply(pool: &PgPool, place: &str) -> Result<Vec<Migration>, SchemaError> {
    let failed = |cause| SchemaError::Database { place: place.to_owned(), cause };
    let mut held = HeldTransaction::<Postgres>::begin(pool, OPEN).await.map_err(|cause| {
        let code = cause.as_database_error().and_then(|e| e.code());
        if code.as_deref() == Some(LOCK_NOT_AVAILABLE) {
            SchemaError::Locked { place: place.to_owned(), waited_s: super::APPLY_WAIT_S }
        } else {
            failed(cause)
        }
    })?;
    let status = rows(held.connection()).await.map_err(failed)?;
    let status = compare::compare(place, migrations(Dialect::Postgres), status)?;
    status.check_not_newer(place)?;
    held.connection().execute(bookkeeping(Dialect::Postgres)).await.map_err(failed)?;
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

async fn run(connection: &mut PgConnection, step: &Migration) -> Result<(), sqlx::Error> {
    connection.execute(step.sql).await?;
    let insert = "INSERT INTO barid_schema (version, name, checksum) VALUES ($1, $2, $3)";
    let insert = sqlx::query(insert).bind(i64::from(step.version)).bind(step.name).bind(step.checksum());
    insert.execute(connection).await.map(drop)
}

pub(super) async fn applied(pool: &PgPool) -> Result<Vec<compare::Row>, sqlx::Error> {
    rows(&mut *pool.acquire().await?).await
}

/// The rows of the table, none when it does not exist.
async fn rows(connection: &mut PgConnection) -> Result<Vec<compare::Row>, sqlx::Error> {
    let exists = "SELECT to_regclass('barid_schema') IS NOT NULL";
    if !sqlx::query_scalar::<_, bool>(exists).fetch_one(&mut *connection).await? {
        return Ok(Vec::new());
    }
    sqlx::query_as("SELECT version, name, checksum FROM barid_schema").fetch_all(connection).await
}
