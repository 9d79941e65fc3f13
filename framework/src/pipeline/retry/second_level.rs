//! What happens to a message whose attempts are used up, or that no attempt can help: its handlers of `Failed` messages, and if
//! there are none or they fail, the dead letters.
//!
//! The second level is counted like an attempt before it runs. So it runs no second time once the attempts are used up: a process
//! that dies in it leaves a count above the allowed ones, and the next delivery goes to the dead letters.

use super::{Next, attempt, forget, nack, undo};
use crate::{
    completion,
    context::replying,
    error::{Disposition, Error, Result},
    handler::Attempted,
    idempotency::DuplicatePolicy,
    limits,
    pipeline::IncomingContext,
    retry::shortened,
    store::statement::Opening,
    unit_of_work::{Begun, Unit},
};

/// How the attempts ended.
pub(super) enum Ended {
    /// An attempt failed in this delivery, and there is none left or it cannot help.
    Failed {
        error: Error,
        attempts: u32,
        /// Its unit of work is committed all the same.
        durable: bool,
    },
    /// This delivery would be one too many: the processes of the ones before it died. The number of starts, this one included.
    Started(u32),
}

/// Gives the message up, in the order that the module says.
pub(super) async fn give_up(
    cx: &mut IncomingContext,
    next: Next<'_, IncomingContext>,
    ended: Ended,
) -> Result<()> {
    let core = cx.core();
    let attempts_max = core.policy.attempts_max;
    let (error, attempts, counted, durable) = match ended {
        Ended::Failed { error, attempts, durable } => (error, attempts.min(attempts_max), false, durable),
        Ended::Started(started) => {
            match elsewhere(cx).await {
                Ok(None) => {}
                // Handled before, and only the acknowledgement was lost each time.
                Ok(Some(true)) => {
                    cx.outcome = "duplicate";
                    done(cx).await;
                    return Ok(());
                }
                Ok(Some(false)) => {
                    return nack(cx, Error::later("another delivery of this message is being handled"), true)
                        .await;
                }
                Err(error) => return nack(cx, error.with(Disposition::Later), true).await,
            }
            let error = Error::permanent(format!(
                "all {attempts_max} attempts were started before, and the last of them did not end: its process died"
            ));
            if started > attempts_max.saturating_add(1) {
                // The second level was among them.
                return bury(cx, error, attempts_max, None).await;
            }
            (error, attempts_max, true, false)
        }
    };
    if !has_second_level(cx, durable) {
        return bury(cx, error, attempts, None).await;
    }
    if !counted {
        match core.attempts.started(&cx.key()).await {
            Ok(_) => {}
            Err(uncounted) => {
                let uncounted = uncounted.context("counting the second level").with(Disposition::Later);
                return nack(cx, uncounted, false).await;
            }
        }
    }
    let attempted = Attempted { errors: errors(cx, &error).await, attempts };
    match second_level(cx, next, attempted).await {
        Ok(()) => {
            forget(&core, &cx.key()).await;
            Ok(())
        }
        Err(second) if second.disposition() == Disposition::Later => nack(cx, second, true).await,
        Err(second) => bury(cx, error, attempts, Some(second)).await,
    }
}

/// Whether there are handlers for it, and they can be called: a message that nobody can read goes to the dead letters, and so
/// does one whose record is committed, because a unit of work would find it and call nobody.
fn has_second_level(cx: &IncomingContext, durable: bool) -> bool {
    let core = cx.core();
    let skips = core.idempotency.is_some_and(|idempotency| idempotency.policy == DuplicatePolicy::Skip);
    if durable && skips {
        return false;
    }
    let handlers = core.failed_handlers.find(cx.message());
    let readable = handlers.iter().all(|handler| handler.prepare(core.codec.as_ref(), cx.message()).is_ok());
    !handlers.is_empty() && readable
}

/// Runs the handlers of the failed message in a unit of work of their own, and acknowledges it when they succeed.
async fn second_level(
    cx: &mut IncomingContext,
    next: Next<'_, IncomingContext>,
    attempted: Attempted,
) -> Result<()> {
    completion::close_unit(cx).await;
    let mut second = cx.second_level(attempted);
    let result = attempt(&mut second, next).await;
    match result {
        Ok(()) => {
            second.settlement = cx.settlement.take();
            completion::acknowledge(&mut second).await;
            completion::close(&mut second).await;
            cx.outcome = "handled as failed";
            // Settled already; these are the actions of the first level.
            completion::acknowledge(cx).await;
            completion::close(cx).await;
            Ok(())
        }
        Err(failure) => {
            let (error, _) = undo(&mut second, failure).await;
            completion::reject(&mut second, std::time::Duration::ZERO).await;
            completion::close(&mut second).await;
            cx.handler = second.handler.or(cx.handler);
            Err(error)
        }
    }
}

/// What the attempts said. The last one always, also when the store cannot be asked.
async fn errors(cx: &mut IncomingContext, last: &Error) -> Vec<String> {
    let last = shortened(&last.to_string(), limits::ATTEMPT_ERROR_BYTES_MAX);
    let mut errors = cx.core().attempts.errors(&cx.key()).await.unwrap_or_else(|error| {
        cx.context.transaction().report(&error.context("reading what the attempts said"));
        Vec::new()
    });
    if errors.last() != Some(&last) {
        errors.push(last);
    }
    errors
}

/// Whether the message was handled (`true`) or is being handled (`false`) by another delivery, as far as its idempotency record
/// says.
async fn elsewhere(cx: &mut IncomingContext) -> Result<Option<bool>> {
    let core = cx.core();
    let (Some(unit_of_work), Some(idempotency)) = (&core.unit_of_work, core.idempotency) else {
        return Ok(None);
    };
    let mark = idempotency.mark(cx.message())?;
    let opening = Opening { key: Some(cx.key()), mark, ..Opening::default() };
    let (unit, found) = match unit_of_work.begin(cx.message(), &opening).await? {
        Begun::Fresh(unit) => (unit, None),
        Begun::Duplicate(unit) => (unit, Some(true)),
        Begun::InProgress => return Ok(Some(false)),
    };
    end(unit).await?;
    Ok(found)
}

/// Ends a unit of work in which nothing happened.
async fn end(mut unit: Box<dyn Unit>) -> Result<()> {
    let answer = unit.rollback().await;
    unit.close().await.and(answer)
}

/// Moves the message to the dead letters; only when they have it is it acknowledged.
async fn bury(cx: &mut IncomingContext, first: Error, attempts: u32, second: Option<Error>) -> Result<()> {
    let core = cx.core();
    let error = match second {
        Some(second) => {
            Error::permanent(format!("{first}; then the handler of the failed message: {second}"))
        }
        None => first,
    };
    let handler = cx.handler.map_or_else(|| core.handlers.names(cx.message()), str::to_owned);
    // Before it is settled: told twice is better than never.
    replying::given_up(&cx.context, &error).await;
    let mut settlement = cx.settlement.take();
    let message = cx.message().clone();
    let buried = core.bury(&mut settlement, &message, &error.to_string(), attempts, &handler).await;
    cx.settlement = settlement;
    match buried {
        Ok(()) => {
            cx.outcome = "dead letter";
            done(cx).await;
        }
        Err(unburied) => {
            cx.outcome = "failed";
            cx.context.transaction().report(&unburied.context("sending the dead letter"));
            completion::reject(cx, core.policy.pause_max).await;
            completion::close(cx).await;
        }
    }
    Err(error)
}

/// The message is done: it is acknowledged, unless that is done too, and forgotten.
async fn done(cx: &mut IncomingContext) {
    completion::acknowledge(cx).await;
    forget(&cx.core(), &cx.key()).await;
    completion::close(cx).await;
}
