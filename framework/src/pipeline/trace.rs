//! One span and one line of log for every message.

use std::time::Instant;

use async_trait::async_trait;
use tracing::Instrument;

use super::{IncomingContext, Next, Step};
use crate::{error::Result, headers};

pub(super) struct Trace;

#[async_trait]
impl Step<IncomingContext> for Trace {
    fn name(&self) -> &'static str {
        "trace"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        let message = cx.message();
        let span = tracing::info_span!(
            "handle",
            bus = cx.context.bus(),
            message = message.name,
            id = %message.id,
            correlation = message.headers.get(headers::CORRELATION_ID),
        );
        let began = Instant::now();
        let result = next.run(cx).instrument(span.clone()).await;
        let elapsed_ms = began.elapsed().as_millis();
        let _entered = span.enter();
        match &result {
            Ok(()) => {
                tracing::debug!(outcome = cx.outcome, attempt = cx.context.attempt(), elapsed_ms, "message")
            }
            Err(error) => {
                tracing::warn!(outcome = cx.outcome, attempt = cx.context.attempt(), elapsed_ms, %error, "message");
            }
        }
        result
    }
}
