//! Receives the answers to the requests of one instance, beside the worker of its bus.
//!
//! The queue belongs to this instance and is removed when the bus stops. It is declared again now and then: that keeps it
//! from being taken for one whose process died, and brings it back when somebody removed it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Answer, Heard, Waiting};
use crate::{
    background::Background,
    bus::BusCore,
    error::Result,
    headers, limits,
    transport::{Delivery, Inbox, TransportError},
};

/// Between the name of the bus and that of the instance.
const INFIX: &str = ".replies.";
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// The name of a reply queue of a new instance of bus `bus`.
pub(crate) fn reply_queue(bus: &str) -> String {
    format!("{bus}{INFIX}{}", Uuid::now_v7().simple())
}

pub(crate) struct Replies(pub(crate) Arc<Waiting>);

#[async_trait]
impl Background for Replies {
    fn name(&self) -> &'static str {
        "replies"
    }

    async fn run(&self, core: &Arc<BusCore>, stop: &CancellationToken) -> Result<()> {
        // However this ends, nobody waits any longer for what will not be received.
        let _silence = Silence(Arc::clone(&self.0));
        self.0.hear(Heard::Soon);
        let inbox = Inbox::temporary(self.0.queue.clone());
        tokio::select! {
            received = self.receive(core, &inbox) => received?,
            () = stop.cancelled() => {}
        }
        self.0.hear(Heard::No);
        Ok(core.transport.remove(&inbox).await?)
    }
}

impl Replies {
    async fn receive(&self, core: &BusCore, inbox: &Inbox) -> Result<()> {
        core.transport.declare(inbox).await?;
        let mut consumer = core.transport.consumer(inbox).await?;
        self.0.hear(Heard::Yes);
        let mut renew = tokio::time::interval(limits::REPLY_QUEUE_KEPT / 4);
        renew.tick().await;
        loop {
            let received = tokio::select! {
                received = consumer.receive() => received,
                _ = renew.tick() => {
                    core.transport.declare(inbox).await?;
                    continue;
                }
            };
            match received {
                Ok(delivery) => self.take(core, delivery).await,
                Err(error) => failed(core, inbox, error).await?,
            }
        }
    }

    /// Hands one answer on, and acknowledges it whether somebody waited or not.
    async fn take(&self, core: &BusCore, delivery: Delivery) {
        let of = delivery.headers.get(headers::IN_REPLY_TO).and_then(|id| id.parse().ok());
        if !of.is_some_and(|id| self.0.answered(id, Answer::read(&delivery))) {
            tracing::debug!(bus = core.name, in_reply_to = ?of, "nobody waits for this answer any more");
        }
        if let Err(error) = delivery.settlement.ack().await {
            // It comes again, and nobody will wait for it then.
            tracing::debug!(bus = core.name, %error, "acknowledging an answer");
        }
    }
}

/// The consumer reconnects by itself, unless the queue is gone: then everything starts over.
async fn failed(core: &BusCore, inbox: &Inbox, error: TransportError) -> Result<()> {
    if !error.is_transient() {
        return Err(error.into());
    }
    tracing::warn!(bus = core.name, queue = inbox.queue, %error, "receiving answers");
    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
    Ok(())
}

/// Ends all waiting when it is dropped.
struct Silence(Arc<Waiting>);

impl Drop for Silence {
    fn drop(&mut self) {
        self.0.hear(Heard::No);
    }
}
