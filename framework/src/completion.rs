//! Carries out the stages of the transaction context, in their order, once. Called by the retry step.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{
    context::{Context, UnitSlot, replying},
    error::{Disposition, Error, Result},
    limits,
    pipeline::IncomingContext,
    schedule::{self, Deferred, Scheduled},
    store::statement::Writes,
    transaction::Stage,
    transport::OutgoingRow,
    unit_of_work::CommitError,
};

/// Why a message could not be completed.
pub(crate) enum Failure {
    /// Nothing is durable: roll back.
    BeforeCommit(Error),
    /// Nobody knows whether the unit of work committed: there is nothing to undo and nothing to go on with.
    Unknown(Error),
    /// The unit of work is durable: there is nothing to roll back.
    AfterCommit(Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::BeforeCommit(error) | Self::Unknown(error) | Self::AfterCommit(error)) = self;
        error.fmt(f)
    }
}

/// Everything up to and including the after-commit stage.
pub(crate) async fn commit(cx: &mut IncomingContext) -> Result<(), Failure> {
    let core = cx.core();
    let transaction = cx.context.transaction().clone();
    let (rows, deferred) = before_commit(cx).await.map_err(Failure::BeforeCommit)?;
    transaction.complete();
    let (outbox, leaving) = if core.outbox.is_some() { (rows, Vec::new()) } else { (Vec::new(), rows) };
    let sends = !outbox.is_empty();
    let writes = Writes { outbox, statements: cx.context.take_writes() };
    if !writes.is_empty() {
        let mut slot = unit(&cx.context).await.map_err(Failure::BeforeCommit)?;
        let Some(unit) = slot.as_deref_mut() else {
            return Err(Failure::BeforeCommit(Error::new(
                "there is no open unit of work for what is to be written",
            )));
        };
        unit.stage(writes).map_err(Failure::BeforeCommit)?;
    }
    transaction.run(Stage::Commit).await.map_err(Failure::BeforeCommit)?;
    commit_unit(cx).await?;
    if let Some(held) = cx.held.take() {
        held.confirm();
    }
    transaction.committing(true);
    if let Some(schedule) = &core.schedule {
        schedule.committed(deferred);
    }
    core.send_all(&leaving).await.map_err(Failure::AfterCommit)?;
    if sends {
        core.ring();
    }
    transaction.run(Stage::AfterCommit).await.map_err(Failure::AfterCommit)
}

/// The before-commit stage: the users' actions, then what was sent becomes rows, to leave now or later.
pub(crate) async fn before_commit(cx: &mut IncomingContext) -> Result<(Vec<OutgoingRow>, Deferred)> {
    cx.context.transaction().run(Stage::BeforeCommit).await?;
    let core = cx.core();
    let staged = cx.context.take_staged();
    let mut rows = Vec::with_capacity(staged.len());
    let mut deferred = Deferred { cancelled: cx.context.take_cancelled(), scheduled: Vec::new() };
    for message in staged {
        let due = message.due;
        // A user's step that ends the pipeline before `route` swallows the message, on purpose.
        let leaving = core.rows(message, Some(cx.context.clone())).await?;
        match due {
            Some(due) => deferred.scheduled.extend(leaving.into_iter().map(|row| Scheduled::new(row, due))),
            None => rows.extend(leaving),
        }
    }
    rows.append(&mut cx.resent);
    let rows = replying::keep(cx, rows)?;
    schedule::stage(&core, &cx.context, &deferred)?;
    Ok((rows, deferred))
}

/// Commits the unit of work if one is open.
pub(crate) async fn commit_unit(cx: &mut IncomingContext) -> Result<(), Failure> {
    if !cx.unit_is_open {
        return Ok(());
    }
    let mut slot = unit(&cx.context).await.map_err(Failure::BeforeCommit)?;
    let Some(unit) = slot.as_deref_mut() else {
        return Ok(());
    };
    cx.context.transaction().committing(true);
    match unit.commit().await {
        Ok(()) => {
            cx.unit_is_open = false;
            Ok(())
        }
        Err(CommitError::Failed(error)) => {
            cx.context.transaction().committing(false);
            Err(Failure::BeforeCommit(error))
        }
        Err(CommitError::Unknown(error)) => {
            cx.unit_is_open = false;
            let error = error.context("nobody knows whether the unit of work committed");
            Err(Failure::Unknown(error.with(Disposition::Later)))
        }
    }
}

/// Undoes everything that was not committed.
pub(crate) async fn roll_back(cx: &mut IncomingContext) {
    let transaction = cx.context.transaction().clone();
    transaction.complete();
    drop(cx.context.take_staged());
    drop(cx.held.take());
    if cx.unit_is_open {
        cx.unit_is_open = false;
        let answer = match unit(&cx.context).await {
            Ok(mut slot) => match slot.as_deref_mut() {
                Some(unit) => unit.rollback().await,
                None => Ok(()),
            },
            Err(error) => {
                abandon(&cx.context.0.unit);
                Err(error)
            }
        };
        if let Err(error) = answer {
            transaction.report(&error.context("rolling back"));
        }
    }
    transaction.run_all(Stage::Rollback).await;
}

/// Tells the transport that the message is done.
pub(crate) async fn acknowledge(cx: &mut IncomingContext) {
    cx.context.transaction().settled();
    if let Some(settlement) = cx.settlement.take()
        && let Err(error) = settlement.ack().await
    {
        // It will be delivered again; with idempotency it is skipped then.
        cx.context.transaction().report(&Error::from(error).context("acknowledging"));
    }
    cx.context.transaction().run_all(Stage::Ack).await;
}

/// Gives the message back to the transport.
pub(crate) async fn reject(cx: &mut IncomingContext, pause: Duration) {
    if let Some(settlement) = cx.settlement.take()
        && let Err(error) = settlement.nack(pause).await
    {
        cx.context.transaction().report(&Error::from(error).context("giving the message back"));
    }
    cx.context.transaction().run_all(Stage::Nack).await;
}

/// The last stage.
pub(crate) async fn close(cx: &mut IncomingContext) {
    cx.context.transaction().complete();
    close_unit(cx).await;
    cx.context.transaction().run_all(Stage::Close).await;
}

/// Closes the unit of work and takes it away from the handlers.
pub(crate) async fn close_unit(cx: &mut IncomingContext) {
    let answer = match unit(&cx.context).await {
        Ok(mut slot) => match slot.take() {
            Some(mut unit) => unit.close().await,
            None => Ok(()),
        },
        Err(error) => Err(error),
    };
    if let Err(error) = answer {
        cx.context.transaction().report(&error.context("closing the unit of work"));
    }
}

/// Takes a unit of work that several messages share away from the handlers that have returned.
pub(crate) async fn retake(slot: &Arc<AsyncMutex<UnitSlot>>) -> Result<UnitSlot> {
    match locked(slot).await {
        Ok(mut unit) => Ok(unit.take()),
        Err(error) => {
            abandon(slot);
            Err(error)
        }
    }
}

/// Leaves a unit of work to the guard that outlives its handler: when that is dropped the unit goes too, which rolls it back.
/// On SQLite nobody can write before, and counting the attempt comes before the unit is closed.
fn abandon(slot: &Arc<AsyncMutex<UnitSlot>>) {
    let slot = Arc::clone(slot);
    // Ends with the guard; nothing waits for it but the lock.
    tokio::spawn(async move { drop(slot.lock_owned().await.take()) });
}

pub(crate) async fn unit(context: &Context) -> Result<OwnedMutexGuard<UnitSlot>> {
    locked(&context.0.unit).await
}

/// The unit of work. A guard that outlives its handler is waited for a moment, then it is the handler's error.
async fn locked(slot: &Arc<AsyncMutex<UnitSlot>>) -> Result<OwnedMutexGuard<UnitSlot>> {
    let slot = Arc::clone(slot);
    tokio::time::timeout(limits::GUARD_WAIT, slot.lock_owned()).await.map_err(|_| {
        Error::new("a guard of the unit of work outlives its handler: drop it before the handler returns")
    })
}
