//! Carries out the subscribe requests that other buses send to this one when it keeps the subscriptions of its events.
//!
//! Before the unit of work on purpose: a change of the store is safe to repeat and needs neither a transaction nor an
//! idempotency record, and on SQLite it would wait for the very transaction that it runs in.

use async_trait::async_trait;

use super::{IncomingContext, Next, Step};
use crate::{error::Result, subscriptions};

pub(super) struct SubscribeRequests;

#[async_trait]
impl Step<IncomingContext> for SubscribeRequests {
    fn name(&self) -> &'static str {
        "subscriptions"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        let core = cx.core();
        if core.subscriptions.owners_are_asked()
            && let Some(store) = core.subscriptions.store()
            && subscriptions::answer(cx.message(), store).await?
        {
            return Ok(());
        }
        next.run(cx).await
    }
}
