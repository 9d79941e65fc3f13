//! Takes from a consumer what is ready. Called by the worker, which has the first delivery of a batch already.

use futures::FutureExt as _;
use tokio::time::Instant;

use crate::transport::{Consumer, Delivery, TransportError};

/// What is there now, or comes before `until`. Cancel safe, as `Consumer::receive` is.
pub(crate) async fn ready(
    consumer: &mut dyn Consumer,
    until: Instant,
) -> Option<Result<Delivery, TransportError>> {
    // Receiving is cancel safe: a delivery that is not ready is received by the next call.
    match consumer.receive().now_or_never() {
        None if Instant::now() < until => tokio::time::timeout_at(until, consumer.receive()).await.ok(),
        received => received,
    }
}
