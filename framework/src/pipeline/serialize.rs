//! Body to bytes, within the size that brokers take.

use async_trait::async_trait;

use super::{Next, OutgoingContext, Step, outgoing};
use crate::error::Result;

pub(super) struct Serialize;

#[async_trait]
impl Step<OutgoingContext> for Serialize {
    fn name(&self) -> &'static str {
        "serialize"
    }

    async fn run(&self, cx: &mut OutgoingContext, next: Next<'_, OutgoingContext>) -> Result<()> {
        cx.body = outgoing::encode(&cx.message, cx.core.codec.as_ref())?;
        next.run(cx).await
    }
}
