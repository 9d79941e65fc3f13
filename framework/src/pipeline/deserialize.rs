//! Finds the handlers of a message and decodes it for each, before anything is opened.

use async_trait::async_trait;

use super::{IncomingContext, Next, Step};
use crate::error::{Error, Result};

pub(super) struct Deserialize;

#[async_trait]
impl Step<IncomingContext> for Deserialize {
    fn name(&self) -> &'static str {
        "deserialize"
    }

    async fn run(&self, cx: &mut IncomingContext, next: Next<'_, IncomingContext>) -> Result<()> {
        cx.says_nothing = true; // until it is read
        let core = cx.core();
        let message = cx.message();
        let handlers = core.handlers.of(message)?;
        if handlers.is_empty() {
            cx.outcome = "not for this bus";
            return Ok(());
        }
        let calls = handlers
            .iter()
            .map(|handler| {
                handler.prepare(core.codec.as_ref(), &message.body).map_err(|error| {
                    Error::permanent(format!(
                        "message {:?} cannot be read by handler {}: {error}",
                        message.name,
                        handler.type_name()
                    ))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        cx.calls = calls;
        cx.says_nothing = false;
        next.run(cx).await
    }
}
