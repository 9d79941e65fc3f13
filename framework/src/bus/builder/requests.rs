//! Requests: receiving answers, and giving them.

use std::{future::Future, sync::Arc};

use super::{BusBuilder, problems::Problems};
use crate::{
    background::Background,
    bus::Settings,
    context::Context,
    error::Result,
    handler::{ByType, IntoHandler},
    idempotency::retention::Retention,
    limits,
    request::{Answering, Replies, Request, Waiting, reply_queue},
    unit_of_work::Capabilities,
};

impl BusBuilder {
    /// Receives answers, so that [`Bus::request`](crate::Bus::request) works while the bus runs.
    ///
    /// Every instance has a reply queue of its own, `NAME.replies.ID`, which is removed when the bus stops. When the process
    /// dies instead: RabbitMQ removes the queue 10 minutes later (classic, with `x-expires`), the SQL queue when the next
    /// instance of a bus of the same name starts after that time. Kafka keeps the topic; delete topics named `NAME.replies.*`
    /// that have no consumer. Where the application may not make topics, make no requests over Kafka.
    pub fn requests(mut self) -> Self {
        self.replies = Some(reply_queue(&self.name));
        self
    }

    /// Adds a handler that returns the answer to a request: `async fn get_price(request: GetPrice, cx: Context) ->
    /// Result<Price>`. See [`Context::reply`] for what becomes of the answer.
    pub fn answer<R, F, Fut>(self, handler: F) -> Self
    where
        R: Request,
        F: Fn(R, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Reply>> + Send + 'static,
        Answering<F>: IntoHandler<R, ByType>,
    {
        self.handler::<R, ByType>(Answering(handler))
    }

    /// Where the answers of this instance arrive, and the task that receives them.
    pub(super) fn waiting(&self, background: &mut Vec<Arc<dyn Background>>) -> Option<Arc<Waiting>> {
        let waiting = Arc::new(Waiting::new(self.replies.clone()?));
        background.push(Arc::new(Replies(Arc::clone(&waiting))));
        Some(waiting)
    }

    /// The task that removes what is old.
    pub(super) fn retention(&self, unit: Option<&Capabilities>, background: &mut Vec<Arc<dyn Background>>) {
        let keep_for = self.idempotency.map_or(limits::RECORDS_KEPT_FOR, |idempotency| idempotency.keep_for);
        if let Some(records) = unit.and_then(|unit| unit.records.clone()) {
            background.push(Arc::new(Retention::new(records, keep_for)));
        }
    }

    /// A high-water mark needs a transport that keeps the order of a key.
    pub(super) fn check_mark(&self, settings: Option<&Settings>, problems: &mut Problems) {
        if self.idempotency.is_none_or(|idempotency| idempotency.number.is_none()) {
            return;
        }
        if settings.is_some_and(|settings| settings.batch.is_some()) {
            problems.add(
                "BRD052",
                "its idempotency has a high-water mark, and it handles batches, which keep a record for each message",
                "leave out .high_water_mark(..) or .batch(..)",
            );
        }
        let orders = self.transport.as_ref().is_none_or(|transport| transport.promises().orders_keys);
        if !orders {
            problems.add(
                "BRD051",
                "its idempotency has a high-water mark, and its transport may deliver a retried message after later ones of its \
                 key: the retried one would be taken for a duplicate and be lost",
                "leave out .high_water_mark(..), or use Kafka or the SQL queue",
            );
        }
    }
}
