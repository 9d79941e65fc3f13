//! Skips or marks a message that was handled before, and answers it again.

use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::{IncomingContext, Next, Step};
use crate::{context::replying, error::Result, idempotency::DuplicatePolicy};

pub(super) struct Idempotency;

#[async_trait]
impl Step<IncomingContext> for Idempotency {
    fn name(&self) -> &'static str {
        "idempotency"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        if cx.duplicate {
            cx.outcome = "duplicate";
            match cx.core().idempotency.map(|idempotency| idempotency.policy) {
                Some(DuplicatePolicy::Invoke) => cx.context.0.duplicate.store(true, Ordering::Relaxed),
                Some(DuplicatePolicy::Skip) | None => return replying::again(cx).await,
            }
        }
        next.run(cx).await
    }
}
