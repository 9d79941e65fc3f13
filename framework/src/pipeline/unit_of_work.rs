//! Begins the unit of work, and with `commit_with_transaction` off commits it right after the handlers.

use async_trait::async_trait;

use super::{IncomingContext, Next, Step};
use crate::{
    completion,
    error::{Error, Result},
    store::statement::Opening,
    unit_of_work::Begun,
};

pub(super) struct UnitOfWorkStep;

#[async_trait]
impl Step<IncomingContext> for UnitOfWorkStep {
    fn name(&self) -> &'static str {
        "unit_of_work"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        if let Some(seat) = cx.context.0.seat.clone() {
            if !cx.reads.is_empty() || !cx.sagas.is_empty() {
                return Err(Error::later(
                    "it reads with the opening text of its unit of work: not in a batch",
                ));
            }
            cx.duplicate = seat.duplicate;
            return next.run(cx).await;
        }
        let core = cx.core();
        let Some(unit_of_work) = &core.unit_of_work else {
            return next.run(cx).await;
        };
        let opening = opening(cx)?;
        let unit = match unit_of_work.begin(cx.message(), &opening).await? {
            Begun::Fresh(unit) => unit,
            Begun::Duplicate(unit) => {
                cx.duplicate = true;
                unit
            }
            Begun::InProgress => {
                cx.says_nothing = true;
                return Err(Error::later("another delivery of this message is being handled right now"));
            }
        };
        unit.show(cx.context.transaction());
        *cx.context.0.unit.lock().await = Some(unit);
        cx.unit_is_open = true;
        next.run(cx).await?;
        if !core.settings.commit_with_transaction {
            if let Err(failure) = completion::commit_unit(cx).await {
                let said = Error::new(failure.to_string());
                cx.failure = Some(failure);
                return Err(said);
            }
            completion::close_unit(cx).await;
        }
        Ok(())
    }
}

/// What the unit of work begins with besides its transaction.
fn opening(cx: &mut IncomingContext) -> Result<Opening> {
    let idempotency = cx.core().idempotency;
    let key = idempotency.map(|_| cx.key());
    if let Some(idempotency) = idempotency {
        cx.mark = idempotency.mark(cx.message())?;
    }
    Ok(Opening { key, mark: cx.mark, reads: std::mem::take(&mut cx.reads) })
}
