//! The receiving half: one connection, one channel, explicit acknowledgements by tag.
//!
//! A lost connection, a closed channel and a consumer that the broker cancelled are each reported once; the next call
//! opens a new connection and consumes again. Deliveries that were not settled by then come again, marked as possible
//! repeats. So do those that were prefetched and never handed out: the broker cannot tell the two apart.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use lapin::{
    Acker, Channel, Connection,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};

use tokio::time::Instant;

use super::{
    connection::{Broker, NOT_FOUND, channel_error},
    wire,
};
use crate::transport::{Consumer, Delivery, Inbox, Settlement, TransportError};

/// One generation: a connection, its channel and the stream of deliveries.
struct Live {
    session: Arc<Session>,
    stream: lapin::Consumer,
}

/// What settling needs. Every delivery holds it, so that it can be settled after the consumer was closed.
struct Session {
    broker: Arc<Broker>,
    channel: Channel,
    /// Dropped with the last delivery, which closes the connection.
    _connection: Connection,
}

/// See the module.
pub(super) struct RabbitConsumer {
    broker: Arc<Broker>,
    inbox: Inbox,
    live: Option<Live>,
    /// Kept here so that a cancelled `receive` does not start to connect all over again.
    opening: Option<BoxFuture<'static, Result<Live, TransportError>>>,
    /// When the connection was last known to be open. lapin closes one whose heartbeats stay out.
    open_at: Instant,
}

impl RabbitConsumer {
    pub(super) async fn open(broker: Arc<Broker>, inbox: Inbox) -> Result<Self, TransportError> {
        let live = Some(open(broker.clone(), inbox.clone()).await?);
        Ok(Self { broker, inbox, live, opening: None, open_at: Instant::now() })
    }

    fn delivery(&self, session: &Arc<Session>, received: lapin::message::Delivery) -> Delivery {
        let settlement = RabbitSettlement { session: session.clone(), acker: received.acker };
        Delivery {
            headers: wire::decode(&received.properties),
            body: Bytes::from(received.data),
            source: self.inbox.queue.clone(),
            repeat: wire::repeat(received.redelivered),
            settlement: Box::new(settlement),
        }
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn receive(&mut self) -> Result<Delivery, TransportError> {
        if self.live.is_none() {
            let opening =
                self.opening.get_or_insert_with(|| Box::pin(open(self.broker.clone(), self.inbox.clone())));
            let opened = opening.await;
            self.opening = None;
            self.live = Some(opened?);
            self.open_at = Instant::now();
        }
        let Some(live) = &mut self.live else { return Err(self.broker.lost("not connected")) };
        let error = match live.stream.next().await {
            Some(Ok(received)) => {
                let session = live.session.clone();
                return Ok(self.delivery(&session, received));
            }
            Some(Err(error)) => self.broker.lost(error.to_string()),
            None => self.broker.lost(format!(
                "the broker cancelled the consumer of queue {:?}; it was deleted, or its node went away",
                self.inbox.queue
            )),
        };
        self.live = None;
        Err(error)
    }

    fn silent_for(&mut self) -> Option<Duration> {
        if self.live.as_ref().is_some_and(|live| live.session.channel.status().connected()) {
            self.open_at = Instant::now();
        }
        Some(self.open_at.elapsed())
    }

    async fn close(mut self: Box<Self>) -> Result<(), TransportError> {
        let Some(Live { session, mut stream }) = self.live.take() else { return Ok(()) };
        let cancelled = session.channel.basic_cancel(stream.tag(), BasicCancelOptions { nowait: false });
        self.broker.bounded("basic.cancel", cancelled).await?;
        // What was prefetched and never handed out goes back now, not when the last handler is done.
        let give_back = async {
            while let Some(Ok(received)) = stream.next().await {
                received.acker.nack(BasicNackOptions { multiple: false, requeue: true }).await?;
            }
            Ok(())
        };
        self.broker.bounded("basic.nack", give_back).await
    }
}

async fn open(broker: Arc<Broker>, inbox: Inbox) -> Result<Live, TransportError> {
    let connection = broker.connect(&format!("consumer of {}", inbox.queue)).await?;
    let channel = broker.bounded("channel.open", connection.create_channel()).await?;
    let qos = channel.basic_qos(inbox.prefetch.max(1), BasicQosOptions { global: false });
    broker.bounded("basic.qos", qos).await?;
    let options = BasicConsumeOptions { no_local: false, no_ack: false, exclusive: false, nowait: false };
    let queue = ShortString::try_new(inbox.queue.as_str())
        .map_err(|_| no_queue(&broker, &inbox, "its name is too long"))?;
    let mut missing = None;
    let consuming = async {
        let consumed =
            channel.basic_consume(queue, ShortString::default(), options, FieldTable::default()).await;
        consumed.inspect_err(|error| {
            missing = channel_error(error)
                // "home node is down" is also a 404, and passes.
                .filter(|error| {
                    error.get_id() == NOT_FOUND && error.get_message().as_str().contains("no queue")
                })
                .map(|error| error.get_message().to_string());
        })
    };
    let consumed = broker.bounded("basic.consume", consuming).await;
    let stream = match missing {
        Some(text) => return Err(no_queue(&broker, &inbox, &text)),
        None => consumed?,
    };
    Ok(Live { session: Arc::new(Session { broker, channel, _connection: connection }), stream })
}

fn no_queue(broker: &Broker, inbox: &Inbox, cause: &str) -> TransportError {
    TransportError::Misconfigured {
        what: format!("queue {:?} at {}", inbox.queue, broker.address),
        cause: cause.to_owned(),
        remedy: "declare it (Transport::declare) before consuming from it".to_owned(),
    }
}

struct RabbitSettlement {
    session: Arc<Session>,
    acker: Acker,
}

impl RabbitSettlement {
    /// `Ok(false)` is lapin's way to say that the channel of this delivery is gone.
    async fn settle(
        &self,
        call: &'static str,
        answer: impl Future<Output = lapin::Result<bool>>,
    ) -> Result<(), TransportError> {
        if self.session.broker.bounded(call, answer).await? {
            return Ok(());
        }
        Err(self.session.broker.lost("the channel that this message came from is closed; it will come again"))
    }
}

#[async_trait]
impl Settlement for RabbitSettlement {
    async fn ack(self: Box<Self>) -> Result<(), TransportError> {
        self.settle("basic.ack", self.acker.ack(BasicAckOptions { multiple: false })).await
    }

    /// RabbitMQ cannot wait before it delivers again: `after` is not kept (`Promises::delays` is false).
    async fn nack(self: Box<Self>, _after: Duration) -> Result<(), TransportError> {
        let options = BasicNackOptions { multiple: false, requeue: true };
        self.settle("basic.nack", self.acker.nack(options)).await
    }
}
