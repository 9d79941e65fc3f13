//! Sender, time and content type. What the user set wins.

use async_trait::async_trait;

use super::{Next, OutgoingContext, Step, outgoing};
use crate::error::Result;

pub(super) struct DefaultHeaders;

#[async_trait]
impl Step<OutgoingContext> for DefaultHeaders {
    fn name(&self) -> &'static str {
        "default_headers"
    }

    async fn run(&self, cx: &mut OutgoingContext, next: Next<'_, OutgoingContext>) -> Result<()> {
        outgoing::default_headers(&mut cx.message, &cx.core.name, cx.core.codec.as_ref());
        next.run(cx).await
    }
}
