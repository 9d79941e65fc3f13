//! Calls the handlers one after the other. The first error ends it: all of them share one unit of work.

use async_trait::async_trait;

use super::{IncomingContext, Next, Step};
use crate::error::{Disposition, Result};

pub(super) struct Dispatch;

#[async_trait]
impl Step<IncomingContext> for Dispatch {
    fn name(&self) -> &'static str {
        "dispatch"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        for (handler, call) in std::mem::take(&mut cx.calls) {
            cx.handler = Some(handler);
            let handled = call(cx.context.clone()).await;
            cx.says_nothing = handled.as_ref().is_err_and(|error| error.disposition() == Disposition::Later);
            handled?;
        }
        cx.handler = None;
        next.run(cx).await
    }
}
