//! Hands the trace of the message being handled on to the messages it sends.

use async_trait::async_trait;

use super::{Next, OutgoingContext, Step};
use crate::{error::Result, headers};

pub(super) struct TraceContext;

#[async_trait]
impl Step<OutgoingContext> for TraceContext {
    fn name(&self) -> &'static str {
        "trace_context"
    }

    async fn run(&self, cx: &mut OutgoingContext, next: Next<'_, OutgoingContext>) -> Result<()> {
        if let Some(cause) = cx.cause.clone() {
            for name in [headers::TRACEPARENT, headers::TRACESTATE] {
                if let Some(value) = cause.incoming().headers.get(name) {
                    cx.headers().set_default(name, || value.to_owned());
                }
            }
        }
        next.run(cx).await
    }
}
