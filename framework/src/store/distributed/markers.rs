//! The marker that a branch leaves in its database, and the tombstone of one that must never be prepared.

use sqlx::Pool;

use crate::{
    distributed::{Ack, BranchId, Heuristic, RmError},
    store::{
        backend::{Backend, Verdict},
        connection::UnitConnection,
        statement::Statement,
    },
};

/// Runs one statement on the markers of a database.
async fn on_markers<DB: Backend>(
    pool: &Pool<DB>,
    statement: &Statement,
) -> Result<(u64, Vec<DB::Row>), sqlx::Error> {
    let _writer = DB::writer(pool).await;
    UnitConnection::hold(pool.acquire().await?).alone(statement).await
}

fn on_marker_error<DB: Backend>(error: &sqlx::Error) -> RmError {
    let text = format!("the marker of the branch: {error}");
    match error.as_database_error() {
        Some(answer) if DB::is_contention(answer) => RmError::Retryable(text),
        Some(_) if DB::verdict(error) == Verdict::Refused => RmError::Config(text),
        _ => RmError::Unknown(text),
    }
}

/// What the marker of a branch says; waits for whoever is writing it, but not for long.
pub(super) async fn marked<DB: Backend>(
    pool: &Pool<DB>,
    branch: &BranchId,
) -> Result<Option<String>, RmError> {
    let (_, rows) =
        on_markers(pool, &DB::marked(branch)).await.map_err(|error| on_marker_error::<DB>(&error))?;
    rows.first().map_or(Ok(None), |row| DB::text(row, 0)).map_err(|error| on_marker_error::<DB>(&error))
}

/// Makes sure that a branch which is not prepared never will be, or finds that it has committed.
pub(super) async fn tombstone<DB: Backend>(pool: &Pool<DB>, branch: &BranchId) -> Result<Ack, RmError> {
    match on_markers(pool, &DB::tombstone(branch)).await {
        Ok((1, _)) => return Ok(Ack::Done),
        Ok(_) => {}
        Err(error) if error.as_database_error().is_some_and(|answer| answer.is_unique_violation()) => {}
        Err(error) => return Err(on_marker_error::<DB>(&error)),
    }
    Ok(match marked(pool, branch).await?.as_deref() {
        Some("branch") => Ack::Heuristic(Heuristic::Committed),
        _ => Ack::Done,
    })
}

pub(super) async fn forget<DB: Backend>(pool: &Pool<DB>, branch: &BranchId) -> Result<(), RmError> {
    let delete = Statement::new("DELETE FROM dtx_marker WHERE xid=").text(branch.to_string());
    on_markers(pool, &delete).await.map(drop).map_err(|error| on_marker_error::<DB>(&error))
}
