//! What a message goes through: steps, each of which may act before and after the rest.
//!
//! The default steps are listed in [`incoming_steps`] and [`outgoing_steps`], in their order. A bus inserts its own before or
//! after a named one.

use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;

mod correlation;
mod default_headers;
mod deserialize;
mod dispatch;
mod idempotency;
pub(crate) mod incoming;
pub(crate) mod outgoing;
mod retry;
mod route;
mod serialize;
mod subscriptions;
mod trace;
mod trace_context;
mod unit_of_work;

pub use incoming::IncomingContext;
pub use outgoing::OutgoingContext;

/// The default steps of a received message.
///
/// | name | does |
/// |---|---|
/// | `trace` | opens the span, logs one line a message |
/// | `retry` | counts attempts, completes the transaction context, settles the delivery |
/// | `subscriptions` | carries out subscribe requests when this bus keeps the subscriptions of its events |
/// | `deserialize` | finds the handlers and decodes the message for each |
/// | `unit_of_work` | begins it, with the idempotency record; commits it when `commit_with_transaction` is off |
/// | `idempotency` | skips or marks a duplicate |
/// | `dispatch` | calls the handlers one after the other |
#[must_use]
pub fn incoming_steps() -> Pipeline<IncomingContext> {
    Pipeline::new([
        Arc::new(trace::Trace) as Arc<dyn Step<IncomingContext>>,
        Arc::new(retry::Retry),
        Arc::new(subscriptions::SubscribeRequests),
        Arc::new(deserialize::Deserialize),
        Arc::new(unit_of_work::UnitOfWorkStep),
        Arc::new(idempotency::Idempotency),
        Arc::new(dispatch::Dispatch),
    ])
}

/// The default steps of a message on its way out.
///
/// | name | does |
/// |---|---|
/// | `default_headers` | sender, time, content type, bases |
/// | `correlation` | conversation and cause |
/// | `trace_context` | W3C trace context of the message being handled |
/// | `serialize` | body to bytes |
/// | `route` | where it goes: its owner, its topics or the queues that subscribed; makes the outbox row |
#[must_use]
pub fn outgoing_steps() -> Pipeline<OutgoingContext> {
    Pipeline::new([
        Arc::new(default_headers::DefaultHeaders) as Arc<dyn Step<OutgoingContext>>,
        Arc::new(correlation::Correlation),
        Arc::new(trace_context::TraceContext),
        Arc::new(serialize::Serialize),
        Arc::new(route::Route),
    ])
}

/// One thing that happens to every message.
#[async_trait]
pub trait Step<C: Send + 'static>: Send + Sync + 'static {
    /// How others name it to stand before or after it. Unique within a pipeline.
    fn name(&self) -> &'static str;

    /// Does its work around `next.run(cx)`, which runs the steps after it. Not calling it ends the pipeline here.
    ///
    /// # Errors
    /// Any error fails the message.
    async fn run(&self, cx: &mut C, next: Next<'_, C>) -> Result<()>;
}

/// The steps that come after the current one.
pub struct Next<'a, C: Send + 'static> {
    steps: &'a [Arc<dyn Step<C>>],
}

impl<C: Send + 'static> Next<'_, C> {
    /// Runs them.
    ///
    /// # Errors
    /// The error of the step that failed.
    pub async fn run(self, cx: &mut C) -> Result<()> {
        match self.steps.split_first() {
            Some((step, rest)) => step.run(cx, Next { steps: rest }).await,
            None => Ok(()),
        }
    }
}

/// An ordered list of steps.
pub struct Pipeline<C: Send + 'static> {
    steps: Vec<Arc<dyn Step<C>>>,
}

/// Where a user's step goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before the step of this name.
    Before(&'static str),
    /// After the step of this name.
    After(&'static str),
}

/// A position that names no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no step {unknown:?} to stand before or after; the steps are {known}")]
pub struct UnknownStep {
    /// The name that was given.
    pub unknown: &'static str,
    /// The names there are, in order.
    pub known: String,
}

impl<C: Send + 'static> Pipeline<C> {
    fn new(steps: impl IntoIterator<Item = Arc<dyn Step<C>>>) -> Self {
        Self { steps: steps.into_iter().collect() }
    }

    /// The names of the steps, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|step| step.name())
    }

    /// Puts a step before or after a named one.
    ///
    /// # Errors
    /// [`UnknownStep`] when there is no step of that name.
    pub fn insert(&mut self, position: Position, step: Arc<dyn Step<C>>) -> Result<(), UnknownStep> {
        let (name, offset) = match position {
            Position::Before(name) => (name, 0),
            Position::After(name) => (name, 1),
        };
        let at = self.names().position(|known| known == name).ok_or_else(|| UnknownStep {
            unknown: name,
            known: self.names().collect::<Vec<_>>().join(", "),
        })?;
        self.steps.insert(at + offset, step);
        Ok(())
    }

    pub(crate) async fn run(&self, cx: &mut C) -> Result<()> {
        Next { steps: &self.steps }.run(cx).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Named(&'static str);

    #[async_trait]
    impl Step<Vec<&'static str>> for Named {
        fn name(&self) -> &'static str {
            self.0
        }

        async fn run(&self, cx: &mut Vec<&'static str>, next: Next<'_, Vec<&'static str>>) -> Result<()> {
            cx.push(self.0);
            next.run(cx).await
        }
    }

    #[tokio::test]
    async fn steps_run_in_order_and_inserted_ones_where_they_were_put() {
        let mut pipeline = Pipeline::new([Arc::new(Named("a")) as Arc<dyn Step<_>>, Arc::new(Named("b"))]);
        pipeline.insert(Position::After("a"), Arc::new(Named("a2"))).unwrap();
        pipeline.insert(Position::Before("a"), Arc::new(Named("a0"))).unwrap();
        let mut ran = Vec::new();
        pipeline.run(&mut ran).await.unwrap();
        assert_eq!(ran, ["a0", "a", "a2", "b"]);
        let unknown = pipeline.insert(Position::After("c"), Arc::new(Named("x"))).unwrap_err();
        assert!(unknown.to_string().contains("a0, a, a2, b"), "{unknown}");
    }
}
