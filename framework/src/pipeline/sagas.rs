//! Shows the handlers the sagas that the message concerns, and saves what they changed.
//!
//! After the idempotency step: a duplicate that is skipped touches no saga.

use std::sync::Arc;

use async_trait::async_trait;

use super::{IncomingContext, Next, Step};
use crate::{
    completion,
    context::Context,
    destination::Destination,
    error::{Error, Result},
    limits,
    saga::{Concerned, Rescheduled},
    store::saga::{Change, Replaced, SagaStore, Saved, Saving},
};

pub(super) struct Sagas;

#[async_trait]
impl Step<IncomingContext> for Sagas {
    fn name(&self) -> &'static str {
        "sagas"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        let Some(store) = cx.core().sagas.store.clone().filter(|_| !cx.sagas.is_empty()) else {
            return next.run(cx).await;
        };
        read(cx, store.as_ref()).await?;
        next.run(cx).await?;
        save(cx, store.as_ref()).await
    }
}

async fn read(cx: &mut IncomingContext, store: &dyn SagaStore) -> Result<()> {
    let mut unit = cx.context.0.unit.lock().await;
    for (saga, position) in &cx.sagas {
        let stored = match saga.lookup() {
            Some(lookup) => store.found(unit.as_deref_mut(), *position, saga.saga(), lookup)?,
            None => None,
        };
        saga.take(stored)?;
    }
    Ok(())
}

async fn save(cx: &mut IncomingContext, store: &dyn SagaStore) -> Result<()> {
    let mut changes = Vec::new();
    let mut timeouts = Vec::new();
    for (saga, _) in &cx.sagas {
        if let Some(change) = saga.change()? {
            changes.push(match change.read {
                Some(_) if saga.merges() => merge(&cx.context, store, saga, change).await?,
                _ => Saved { change, replaced: false },
            });
            timeouts.push(saga.timeouts()?);
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    for timeouts in timeouts {
        schedule(&cx.context, timeouts)?;
    }
    match store.save(&changes)? {
        Saving::Statements(statements) => {
            statements.into_iter().for_each(|statement| cx.context.write(statement));
        }
        Saving::Held(held) => cx.held = Some(held),
    }
    Ok(())
}

/// Timeouts come to this bus's own queue, whatever the routes say.
fn schedule(cx: &Context, (cancelled, set): Rescheduled) -> Result<()> {
    for id in cancelled {
        cx.cancel(id)?;
    }
    for (after, timeout) in set {
        cx.defer(after, timeout.to(Destination::queue(cx.0.core.inbox.queue.clone())?))?;
    }
    Ok(())
}

/// Writes the row at once, merging until nobody was first.
async fn merge(
    cx: &Context,
    store: &dyn SagaStore,
    saga: &Arc<dyn Concerned>,
    mut change: Change,
) -> Result<Saved> {
    let mut unit = completion::unit(cx).await?;
    for _ in 0..limits::SAGA_MERGES_MAX {
        match store.replace(unit.as_deref_mut(), &change).await? {
            Replaced::Done => return Ok(Saved { change, replaced: true }),
            Replaced::Stale(fresh) => match saga.merge(fresh)? {
                Some(merged) => change = merged,
                None => return Err(Error::new("a merged saga has nothing to save")),
            },
        }
    }
    Err(Error::new(format!(
        "{} was changed by other messages each of the {} times that it was merged",
        saga.place(),
        limits::SAGA_MERGES_MAX
    )))
}
