//! Requests: messages that somebody waits for the answer of.
//!
//! A [`Request`] names the type of its answer, so that the two cannot be mixed up. [`Bus::request`](crate::Bus::request) sends
//! one and waits; the handler answers with [`Context::reply`](crate::Context::reply), or is registered with
//! [`BusBuilder::answer`](crate::BusBuilder::answer) and returns the answer. Where nobody can wait that long (an HTTP request
//! that is answered with 202 Accepted), [`Bus::submit`](crate::Bus::submit) sends a message and
//! [`Bus::result`](crate::Bus::result) tells what became of it.

use std::future::Future;

use async_trait::async_trait;

use crate::{
    context::Context,
    error::{Error, Result},
    handler::Handler,
    message::Message,
};

mod answer;
mod problem;
mod replies;
mod waiting;

pub use answer::MessageResult;
pub(crate) use answer::{Answer, decode};
pub use problem::Problem;
pub(crate) use problem::{CONTENT_TYPE as PROBLEM_JSON, FAILED_NAME};
pub(crate) use replies::{Replies, reply_queue};
pub(crate) use waiting::{Heard, Waiting};

/// A message that has an answer.
///
/// ```
/// use barid::{Message, request::Request};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Message)]
/// #[message(name = "prices.get")]
/// struct GetPrice { sku: String }
///
/// #[derive(Serialize, Deserialize, Message)]
/// #[message(name = "prices.price")]
/// struct Price { cents: u64 }
///
/// impl Request for GetPrice {
///     type Reply = Price;
/// }
/// ```
pub trait Request: Message {
    /// What it is answered with.
    type Reply: Message;
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The bus has no reply queue. Call `.requests()` on its builder.
    #[error("bus {bus:?} receives no answers: call .requests() on its builder")]
    NotEnabled {
        /// The bus.
        bus: String,
    },
    /// The bus does not run, so nobody would receive the answer. Run it first; `requests_ready` waits for it.
    #[error("bus {bus:?} does not run: nobody would receive the answer")]
    NotRunning {
        /// The bus.
        bus: String,
    },
    /// The bus stopped while the request waited. It may have been handled; send it again under the same id to find out.
    #[error("bus {bus:?} stopped while the request waited for its answer")]
    Stopping {
        /// The bus.
        bus: String,
    },
    /// No answer came in time. The request may still be handled; an answer that comes later is dropped.
    #[error("no answer to message {id} ({name}) within {after:?}")]
    Timeout {
        /// The request.
        id: uuid::Uuid,
        /// Its name.
        name: &'static str,
        /// How long it was waited for.
        after: std::time::Duration,
    },
    /// Too many requests of this bus wait. Slow down, or answer faster.
    #[error("{waiting} requests wait for their answers already")]
    TooMany {
        /// How many.
        waiting: usize,
    },
    /// The request has no route, cannot be encoded, or the broker did not confirm it. The text says which.
    #[error("the request was not delivered: {0}")]
    Undeliverable(Error),
    /// The handler failed for good; the request is a dead letter now.
    #[error("the request failed: {0}")]
    Failed(Problem),
    /// An answer came that is not what the request's `Reply` says. Both sides must agree on the type.
    #[error("the answer to message {id} cannot be used: {cause}")]
    Undecodable {
        /// The request.
        id: uuid::Uuid,
        /// What does not fit.
        cause: String,
    },
}

/// A function that returns the answer, as a handler.
pub struct Answering<F>(pub(crate) F);

#[async_trait]
impl<R, F, Fut> Handler<R> for Answering<F>
where
    R: Request,
    F: Fn(R, Context) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R::Reply>> + Send,
{
    async fn handle(&self, request: R, cx: Context) -> Result<()> {
        let reply = (self.0)(request, cx.clone()).await?;
        // Whoever only sends a request, and is no bus, wants no answer.
        if cx.is_asked() { cx.reply(reply) } else { Ok(()) }
    }
}
