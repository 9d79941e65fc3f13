//! What a saga and its steps look like when they are read, and the condition that one is due.

use std::time::Duration;

use crate::{
    orchestration::{
        OrchestrationError, SagaId,
        book::unreadable,
        core::{State, StepState},
        log::Stored,
    },
    store::{backend::Backend, distributed::book::count, statement::Statement},
};

/// What nobody is at, and what is not to be left alone yet.
pub(super) fn due<DB: Backend>(statement: Statement) -> Statement {
    let statement = statement.sql(
        "finished_at IS NULL AND status IN('running','compensating') AND(lease_until IS NULL OR lease_until<=",
    );
    statement.sql(DB::NOW).sql(") AND next_run_at<=").sql(DB::NOW)
}

/// Reads whole sagas; ends before the condition.
pub(super) fn whole<DB: Backend>() -> Statement {
    let select = Statement::new(
        "SELECT t.id,t.name,t.version,t.data,t.status,t.direction,t.error,t.epoch,t.lease_owner,\
         CASE WHEN t.lease_until IS NOT NULL AND t.lease_until>",
    );
    let select = DB::since_1970(select.sql(DB::NOW).sql(" THEN 1 ELSE 0 END,"), "t.deadline");
    let select = DB::since_1970(select.sql(","), DB::NOW);
    select.sql(
        ",s.name,s.status,s.attempts,s.compensations,s.in_doubt,s.output \
         FROM orchestration t LEFT JOIN orchestration_step s ON s.id=t.id WHERE ",
    )
}

/// Whose turn it is, of a row of [`whole`].
pub(super) fn owner<DB: Backend>(row: &DB::Row) -> Result<Option<String>, OrchestrationError> {
    DB::text(row, 8).map_err(unreadable)
}

/// The saga of the rows of [`whole`] that have one id, in the order of its steps.
pub(super) fn stored<DB: Backend>(
    id: SagaId,
    rows: &[DB::Row],
) -> Result<Option<Stored>, OrchestrationError> {
    let Some(first) = rows.first() else { return Ok(None) };
    let text = |at| DB::text(first, at).map_err(unreadable).map(Option::unwrap_or_default);
    let int = |at| DB::int(first, at).map_err(unreadable);
    let deadline = DB::maybe_int(first, 10).map_err(unreadable)?;
    let now = DB::maybe_int(first, 11).map_err(unreadable)?.unwrap_or(0);
    let left = |deadline: i64| Duration::from_millis(count(deadline.saturating_sub(now)));
    let mut state = State::new(0);
    state.direction = text(5)?.parse().map_err(unreadable)?;
    let (mut steps, mut outputs) = (Vec::new(), Vec::new());
    for row in rows {
        let Some((name, step, output)) = one_step::<DB>(row)? else { continue };
        steps.push(name);
        state.steps.push(step);
        outputs.push(output);
    }
    Ok(Some(Stored {
        id,
        name: text(1)?,
        version: u32::try_from(int(2)?).map_err(unreadable)?,
        data: text(3)?,
        status: text(4)?,
        error: DB::text(first, 6).map_err(unreadable)?,
        epoch: int(7)?,
        held: int(9)? != 0,
        time_left: deadline.map(left),
        state,
        steps,
        outputs,
    }))
}

type OneStep = (String, StepState, Option<serde_json::Value>);

fn one_step<DB: Backend>(row: &DB::Row) -> Result<Option<OneStep>, OrchestrationError> {
    let Some(name) = DB::text(row, 12).map_err(unreadable)? else { return Ok(None) };
    let status = DB::text(row, 13).map_err(unreadable)?.unwrap_or_default();
    let number = |at| DB::int(row, at).map_err(unreadable);
    let step = StepState {
        status: status.parse().map_err(unreadable)?,
        attempts: u32::try_from(number(14)?).map_err(unreadable)?,
        compensations: u32::try_from(number(15)?).map_err(unreadable)?,
        in_doubt: number(16)? != 0,
    };
    let output = DB::text(row, 17).map_err(unreadable)?;
    let output = output.map(|json| serde_json::from_str(&json)).transpose().map_err(unreadable)?;
    Ok(Some((name, step, output)))
}
