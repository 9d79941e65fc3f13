//! Handlers of messages whose attempts are used up.

use std::{marker::PhantomData, sync::Arc};

use futures::future::BoxFuture;

use super::{Erased, IntoHandler, Prepared, Provided, decoded};
use crate::{
    codec::Codec,
    context::Context,
    error::{Error, Result},
    headers::Headers,
    incoming::Incoming,
    message::Message,
};

/// A message whose attempts are used up: the first argument of its second-level handlers.
///
/// They are registered like all others and may ask for the same things. They are called once the message would become a dead
/// letter, in a unit of work of their own, with idempotency and outbox as usual. When they succeed the message is done; when
/// they fail it becomes a dead letter with both causes. They are not retried, and not called for a message that cannot be
/// decoded. A process that dies in them counts as their failure.
///
/// ```
/// # use barid::{Bus, Context, Failed, Message, Result};
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.pay")]
/// # struct Pay { order_id: u64 }
/// # #[derive(serde::Serialize, serde::Deserialize, Message)]
/// # #[message(name = "orders.cancel")]
/// # struct Cancel { order_id: u64, why: String }
/// async fn pay(command: Pay) -> Result<()> {
///     Err(barid::Error::new(format!("no answer from the bank for order {}", command.order_id)))
/// }
///
/// async fn not_paid(failed: Failed<Pay>, cx: Context) -> Result<()> {
///     cx.send_local(Cancel { order_id: failed.message.order_id, why: failed.errors.join("; ") })
/// }
///
/// let builder = Bus::builder("payments").handler(pay).handler(not_paid);
/// # drop(builder);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failed<M> {
    /// The message.
    pub message: M,
    /// What its attempts said, oldest first. Long texts are cut, and only as many are kept as fit the store; the last one is
    /// always there.
    pub errors: Vec<String>,
    /// How many attempts were made.
    pub attempts: u32,
    /// The headers of the message.
    pub headers: Headers,
}

/// What is known of a message that is handled on the second level.
#[derive(Clone, Debug)]
pub(crate) struct Attempted {
    pub(crate) errors: Vec<String>,
    pub(crate) attempts: u32,
}

pub(crate) struct TypedFailed<H, M, Args> {
    handler: Arc<H>,
    types: PhantomData<fn(M, Args)>,
}

impl<H, M, Args> TypedFailed<H, M, Args> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler: Arc::new(handler), types: PhantomData }
    }
}

impl<H, M, Args> Erased for TypedFailed<H, M, Args>
where
    H: IntoHandler<Failed<M>, Args>,
    M: Message,
    Args: 'static,
{
    fn prepare(&self, codec: &dyn Codec, message: &Incoming) -> Result<Prepared> {
        let message: M = decoded(codec, &message.body)?;
        let handler = Arc::clone(&self.handler);
        let call = move |cx: Context| -> BoxFuture<'static, Result<()>> {
            let Some(Attempted { errors, attempts }) = cx.attempted().cloned() else {
                let error =
                    Error::permanent("a handler of failed messages was called for one that has not failed");
                return Box::pin(std::future::ready(Err(error)));
            };
            let headers = cx.headers();
            handler.call(Failed { message, errors, attempts, headers }, cx)
        };
        Ok(Prepared { call: Box::new(call), saga: None })
    }

    fn check(&self, provided: &Provided<'_>) -> Result<(), Vec<String>> {
        H::check(provided)
    }

    fn type_name(&self) -> &'static str {
        std::any::type_name::<H>()
    }
    fn aggregate(&self) -> Option<&'static str> {
        Some(M::AGGREGATE)
    }
}
