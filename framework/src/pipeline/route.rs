//! Decides where a message goes and makes the row of it.

use async_trait::async_trait;

use super::{Next, OutgoingContext, Step, outgoing};
use crate::{error::Result, message::Outgoing};

pub(super) struct Route;

#[async_trait]
impl Step<OutgoingContext> for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    async fn run(&self, cx: &mut OutgoingContext, next: Next<'_, OutgoingContext>) -> Result<()> {
        let places = outgoing::route(&mut cx.message, &cx.core.routes, &cx.core.subscriptions).await?;
        let mut places = places.into_iter();
        let Some(first) = places.next() else {
            tracing::debug!(message = cx.message.name, "nobody subscribed to this event");
            return Ok(());
        };
        // The name stays behind for the steps after this one.
        let left = Outgoing::raw(&cx.message.name, None);
        let message = std::mem::replace(&mut cx.message, left);
        cx.row = Some(outgoing::into_row(message, cx.body.take(), first)?);
        cx.copies = places.collect();
        next.run(cx).await
    }
}
