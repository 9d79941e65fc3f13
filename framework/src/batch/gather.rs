//! Takes from a consumer what is ready. Called by the worker, which has the first delivery already.

use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::Instant;

use super::BatchPolicy;
use crate::transport::{Consumer, Delivery, TransportError};

/// Adds to `first` what the policy allows. An error ends the gathering; what was gathered is handled all the same.
///
/// Not cancel safe: what was gathered is dropped and comes again.
pub(crate) async fn gather(
    consumer: &mut dyn Consumer,
    first: Delivery,
    policy: Option<&BatchPolicy>,
) -> (Vec<Delivery>, Option<TransportError>) {
    let mut gathered = vec![first];
    let Some(policy) = policy else { return (gathered, None) };
    let until = Instant::now() + Duration::from_millis(policy.wait_ms_max);
    while gathered.len() < policy.messages_max {
        // Receiving is cancel safe: a delivery that is not ready is received by the next call.
        let received = match consumer.receive().now_or_never() {
            None if policy.wait_ms_max > 0 => tokio::time::timeout_at(until, consumer.receive()).await.ok(),
            received => received,
        };
        match received {
            Some(Ok(delivery)) => gathered.push(delivery),
            Some(Err(error)) => return (gathered, Some(error)),
            None => break,
        }
    }
    (gathered, None)
}
