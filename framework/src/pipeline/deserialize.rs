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
        let core = cx.core();
        let handlers = match Level::of(cx.context.attempted()) {
            Level::First => core.handlers.of(&cx.message().name)?,
            Level::Second => core.failed_handlers.find(&cx.message().name),
        };
        for handler in handlers {
            let prepared = handler.prepare(core.codec.as_ref(), &cx.message().body);
            cx.handler = Some(handler.type_name());
            let call = prepared.map_err(|error| {
                Error::permanent(format!(
                    "message {:?} cannot be read by handler {}: {error}",
                    cx.message().name,
                    handler.type_name()
                ))
            })?;
            cx.calls.push(call);
            cx.handlers.push(handler.type_name());
        }
        cx.handler = None;
        next.run(cx).await
    }
}
