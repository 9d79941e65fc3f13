//! The marker that each effect of a step leaves, in its own transaction: what makes a step's effect happen once at most.
//!
//! An action inserts its own. A compensation first inserts that of the action, as refused: when that succeeds the action was not
//! done and never will be, whoever still tries, and there is nothing to undo.

use serde_json::Value;

use super::Marker;
use crate::{
    error::Error,
    orchestration::{Call, Fault, SagaId},
    store::{
        backend::{Backend, Recorded},
        statement::Statement,
        unit::{SqlUnit, bounded},
    },
};

/// Where the action of a step stands, for the transaction that asked.
pub(super) enum Action {
    /// The marker is ours: nothing was done before.
    Ours,
    /// It was done, and returned this.
    Done(Value),
    /// It was not done and never will be.
    Refused,
}

/// Inserts the marker of the action, as done or as refused.
pub(super) async fn action<DB: Backend>(
    unit: &mut SqlUnit<DB>,
    call: &Call,
    state: &'static str,
) -> Result<Action, Fault> {
    let marker = Marker { id: call.saga.to_string(), step: call.step.to_string(), op: "action", state };
    match insert(unit, &marker).await? {
        true => Ok(Action::Ours),
        false => stands(unit, &marker).await,
    }
}

/// Inserts the marker of the compensation. False: it was done before.
pub(super) async fn compensation<DB: Backend>(unit: &mut SqlUnit<DB>, call: &Call) -> Result<bool, Fault> {
    let (id, step) = (call.saga.to_string(), call.step.to_string());
    insert(unit, &Marker { id, step, op: "compensation", state: "done" }).await
}

async fn insert<DB: Backend>(unit: &mut SqlUnit<DB>, marker: &Marker) -> Result<bool, Fault> {
    let connection = &mut unit.connection;
    let inserted = bounded(async { Ok(DB::insert_marker(connection.live()?, marker).await?) }).await;
    match inserted.map_err(failed)? {
        Recorded::Fresh => Ok(true),
        Recorded::Duplicate => Ok(false),
        Recorded::InProgress => Err(Fault::Busy(Error::new(format!(
            "another process is at step {:?}: its transaction has not ended",
            marker.step
        )))),
    }
}

/// What the marker of somebody else says.
async fn stands<DB: Backend>(unit: &mut SqlUnit<DB>, marker: &Marker) -> Result<Action, Fault> {
    let find = Statement::new("SELECT state,output FROM orchestration_marker WHERE id=").text(&marker.id);
    let find = find.sql(" AND step=").text(&marker.step).sql(" AND op=").text(marker.op);
    let read = bounded(async {
        let (_, rows) = unit.connection.ask(&find).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some((DB::text(row, 0)?.unwrap_or_default(), DB::text(row, 1)?)))
    });
    match read.await.map_err(failed)? {
        Some((state, _)) if state == "refused" => Ok(Action::Refused),
        Some((_, output)) => {
            let output = output.map(|json| serde_json::from_str(&json)).transpose();
            let output =
                output.map_err(|error| failed(Error::from(error).context("the output in a marker")))?;
            Ok(Action::Done(output.unwrap_or(Value::Null)))
        }
        None => Err(Fault::Busy(Error::new(format!(
            "the marker of step {:?} was removed meanwhile",
            marker.step
        )))),
    }
}

/// Writes what the action returned into its marker, for whoever asks again.
pub(super) fn output(call: &Call, output: &Value) -> Statement {
    let update = Statement::new("UPDATE orchestration_marker SET output=").text(output.to_string());
    let update = update.sql(" WHERE id=").text(call.saga.to_string()).sql(" AND step=").text(&*call.step);
    update.sql(" AND op='action'")
}

/// Removes what a step has left.
pub(super) fn forget(saga: SagaId, step: &str) -> Statement {
    let delete = Statement::new("DELETE FROM orchestration_marker WHERE id=").text(saga.to_string());
    delete.sql(" AND step=").text(step)
}

/// Nothing was committed.
pub(super) fn failed(error: Error) -> Fault {
    Fault::Failed(error.context("the marker of the step"))
}
