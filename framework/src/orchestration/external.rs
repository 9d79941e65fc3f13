//! A step that calls another service: no database tells whether it was done.

use std::{marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::handler::{Abilities, Call, Fault, SagaId, StepContext, StepHandler, Takes, Work, encoded};
use crate::error::{Error, Result};

type Does<D, T> = Arc<dyn Fn(StepContext<D>) -> BoxFuture<'static, Result<T>> + Send + Sync>;

/// Calls of another service, given to [`Step::new`](super::Step::new).
///
/// It was written down that the call is about to be made, so a call whose answer does not come is known: it is not made again, it is
/// undone, unless [`repeatable`](Self::repeatable) says that the service recognises
/// [`StepContext::idempotency_key`]. The compensation must do for a call that was made, was not made, or arrives later.
///
/// ```
/// # use barid::orchestration::{ExternalWork, Step, StepContext};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Order { cents: i64 }
/// # async fn charge(_: &str, _: i64) -> barid::Result<String> { Ok(String::new()) }
/// # async fn refund(_: &str) -> barid::Result<()> { Ok(()) }
/// let pay = ExternalWork::new(|cx: StepContext<Order>| Box::pin(async move { charge(&cx.idempotency_key(), cx.cents).await }))
///     .undo(|cx| Box::pin(async move { refund(&cx.idempotency_key()).await }))
///     .repeatable();
/// let step = Step::new("pay", pay);
/// # let _ = step;
/// ```
#[must_use = "it does nothing until it is given to a step"]
pub struct ExternalWork<D> {
    action: Does<D, Value>,
    compensation: Option<Does<D, ()>>,
    repeatable: bool,
    takes: Takes<D>,
}

impl<D: DeserializeOwned + Send + 'static> ExternalWork<D> {
    /// Work whose action is `action`. What it returns is kept, for the steps after it and for the compensation.
    pub fn new<T: Serialize + Send + 'static>(
        action: impl Fn(StepContext<D>) -> BoxFuture<'static, Result<T>> + Send + Sync + 'static,
    ) -> Self {
        let action: Does<D, Value> = Arc::new(move |cx| {
            let (step, done) = (cx.step().to_owned(), action(cx));
            Box::pin(async move { encoded(&step, &done.await?) })
        });
        Self { action, compensation: None, repeatable: false, takes: PhantomData }
    }

    /// How it is undone.
    pub fn undo(
        mut self,
        compensation: impl Fn(StepContext<D>) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) -> Self {
        self.compensation = Some(Arc::new(compensation));
        self
    }

    /// The service recognises a call that it has had, so one without an answer may be made again. Default: it is undone.
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }
}

impl<D: DeserializeOwned + Send + 'static> Work<D> for ExternalWork<D> {}

#[async_trait]
impl<D: DeserializeOwned + Send + 'static> StepHandler for ExternalWork<D> {
    async fn act(&self, call: &Call) -> Result<Value, Fault> {
        let cx = StepContext::of(call, false).map_err(Fault::of)?;
        (self.action)(cx).await.map_err(Fault::of)
    }

    async fn compensate(&self, call: &Call) -> Result<(), Fault> {
        let Some(compensation) = &self.compensation else { return Ok(()) };
        let cx = StepContext::of(call, true).map_err(Fault::of)?;
        compensation(cx).await.map_err(Fault::of)
    }

    async fn settle(&self, call: &Call) -> Result<Option<Value>, Fault> {
        let error = format!("nobody but the service itself can tell whether step {:?} was done", call.step);
        Err(Fault::InDoubt(Error::new(error)))
    }

    async fn forget(&self, _: SagaId, _: &str) -> Result<()> {
        Ok(())
    }

    fn can(&self) -> Abilities {
        Abilities { compensates: self.compensation.is_some(), recognises: self.repeatable }
    }
}
