//! Finds the handlers of a message and decodes it for each, before anything is opened.

use async_trait::async_trait;

use super::{IncomingContext, Next, Step};
use crate::{
    error::{Error, Result},
    handler::Level,
};

pub(super) struct Deserialize;

#[async_trait]
impl Step<IncomingContext> for Deserialize {
    fn name(&self) -> &'static str {
        "deserialize"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        cx.says_nothing = true; // until it is read
        let core = cx.core();
        let context = cx.context.clone();
        let message = context.incoming();
        let handlers = match Level::of(cx.context.attempted()) {
            Level::First => core.handlers.of(message)?,
            Level::Second => core.failed_handlers.find(message),
        };
        if handlers.is_empty() {
            cx.outcome = "not for this bus";
            return Ok(());
        }
        for handler in handlers {
            cx.handler = Some(handler.type_name());
            let prepared = handler.prepare(core.codec.as_ref(), message).map_err(|error| {
                Error::permanent(format!(
                    "message {:?} cannot be read by handler {}: {error}",
                    message.name,
                    handler.type_name()
                ))
            })?;
            cx.calls.push((handler.type_name(), prepared.call));
            if let Some(saga) = prepared.saga {
                cx.concern(saga);
            }
        }
        cx.handler = None;
        cx.says_nothing = false;
        next.run(cx).await
    }
}
