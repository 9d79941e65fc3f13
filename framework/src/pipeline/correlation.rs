//! The conversation a message belongs to, and the message that caused it.

use async_trait::async_trait;

use super::{Next, OutgoingContext, Step, outgoing};
use crate::error::Result;

pub(super) struct Correlation;

#[async_trait]
impl Step<OutgoingContext> for Correlation {
    fn name(&self) -> &'static str {
        "correlation"
    }

    async fn run(&self, cx: &mut OutgoingContext, next: Next<'_, OutgoingContext>) -> Result<()> {
        outgoing::correlate(&mut cx.message, cx.cause.as_ref().map(crate::Context::incoming));
        next.run(cx).await
    }
}
