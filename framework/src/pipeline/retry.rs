//! Counts attempts, completes the transaction context and settles the delivery: the step around all that can fail.
//!
//! What happens to a message that is given up is in `second_level`: its handlers of `Failed` messages, then the dead letters.

use std::{panic::AssertUnwindSafe, sync::atomic::Ordering};

use async_trait::async_trait;
use futures::FutureExt;

use super::{IncomingContext, Next, Step};
use crate::{
    batch,
    bus::BusCore,
    completion::{self, Failure},
    error::{Disposition, Error, Result, panic_text},
    retry::Decision,
    saga::conflict,
    store::backend::IdempotencyKey,
    transport::Repeat,
};
use second_level::{Ended, give_up};

mod second_level;

pub(super) struct Retry;

#[async_trait]
impl Step<IncomingContext> for Retry {
    fn name(&self) -> &'static str {
        "retry"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        if let Some(ended) = batch::take_part(cx, &next).await {
            return ended;
        }
        let core = cx.core();
        // Only a delivery that may be a repeat is counted before it runs: a first one costs no write, and a handler that
        // kills the process meets its counter on the next delivery.
        let counted = cx.message().repeat == Repeat::Possible;
        if counted {
            let started = match core.attempts.started(&cx.key()).await {
                Ok(started) => started,
                Err(error) => {
                    return nack(cx, error.context("counting the attempt").with(Disposition::Later), false)
                        .await;
                }
            };
            cx.context.0.attempt.store(started, Ordering::Relaxed);
            if !core.policy.allows(started - 1) {
                return give_up(cx, next, Ended::Started(started)).await;
            }
        }
        let result = loop {
            match attempt(cx, next.clone()).await {
                Err(failure) if conflict::is_again(cx, &failure) => conflict::again(cx).await,
                Err(Failure::BeforeCommit(error)) => {
                    break Err(Failure::BeforeCommit(conflict::explained(cx, error)));
                }
                result => break result,
            }
        };
        match result {
            Ok(()) => {
                completion::acknowledge(cx).await;
                if counted {
                    forget(&core, &cx.key()).await;
                }
                completion::close(cx).await;
                Ok(())
            }
            Err(failure) => fail(cx, next, failure, counted).await,
        }
    }
}

/// Runs the steps after this one and completes the transaction context, up to and including the after-commit stage.
async fn attempt(cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<(), Failure> {
    let handled = AssertUnwindSafe(next.run(cx)).catch_unwind().await;
    match handled {
        // A step around the unit of work may have swallowed that the commit failed.
        Ok(_) if cx.failure.is_some() => cx.failure.take().map_or(Ok(()), Err),
        Ok(Ok(())) => AssertUnwindSafe(completion::commit(cx))
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(Failure::BeforeCommit(panicked(panic.as_ref())))),
        Ok(Err(error)) => Err(Failure::BeforeCommit(error)),
        Err(panic) => Err(Failure::BeforeCommit(panicked(panic.as_ref()))),
    }
}

/// Undoes what a failed attempt did, as far as it can be undone. Returns its error, and whether its unit of work is durable
/// all the same.
async fn undo(cx: &mut IncomingContext, failure: Failure) -> (Error, bool) {
    let (error, durable) = match failure {
        Failure::BeforeCommit(error) => {
            completion::roll_back(cx).await;
            return (error, false);
        }
        Failure::Unknown(error) => (error, false),
        Failure::AfterCommit(error) => (error, true),
    };
    cx.context.transaction().complete();
    cx.context.transaction().report(&error);
    (error, durable)
}

pub(crate) async fn fail(
    cx: &mut IncomingContext,
    next: Next<'_, IncomingContext>,
    failure: Failure,
    counted: bool,
) -> Result<()> {
    let core = cx.core();
    let (error, durable) = undo(cx, failure).await;
    let error = core.fail_fast.judge(error);
    match error.disposition() {
        Disposition::Later => nack(cx, error, counted).await,
        Disposition::DeadLetter => {
            let attempts = cx.context.attempt();
            give_up(cx, next, Ended::Failed { error, attempts, durable }).await
        }
        Disposition::Retry => {
            let attempts = match core.attempts.failed(&cx.key(), counted, &error.to_string()).await {
                Ok(attempts) => attempts,
                Err(uncounted) => {
                    cx.context.transaction().report(&uncounted.context("writing the failed attempt"));
                    cx.context.attempt()
                }
            };
            match core.policy.decide(attempts, jitter()) {
                Decision::Again(pause) => {
                    cx.outcome = "failed";
                    completion::reject(cx, pause).await;
                    completion::close(cx).await;
                    Err(error)
                }
                Decision::DeadLetter => give_up(cx, next, Ended::Failed { error, attempts, durable }).await,
            }
        }
    }
}

/// Not now, and not counted.
pub(crate) async fn nack(cx: &mut IncomingContext, error: Error, counted: bool) -> Result<()> {
    cx.outcome = "later";
    let core = cx.core();
    if counted && let Err(error) = core.attempts.take_back(&cx.key()).await {
        cx.context.transaction().report(&error.context("taking the attempt back"));
    }
    let pause = core.policy.pause.mul_f64(0.5 + jitter() / 2.0);
    completion::reject(cx, pause).await;
    completion::close(cx).await;
    Err(error)
}

async fn forget(core: &BusCore, key: &IdempotencyKey) {
    if let Err(error) = core.attempts.forget(key).await {
        // The row stays until retention removes it; the message is done.
        tracing::warn!(%error, "forgetting the attempts of a message");
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    Error::new(format!("the handler panicked: {}", panic_text(panic)))
}

/// A number in 0..1 that differs between messages; the random bits of a UUIDv7 are random enough to spread retries.
pub(crate) fn jitter() -> f64 {
    #[allow(clippy::cast_possible_truncation)] // the low half is the random part of a UUIDv7
    let random = uuid::Uuid::now_v7().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}
