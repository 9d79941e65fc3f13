//! RabbitMQ: queues reached through the default exchange, topics that are exchanges.
//!
//! [`RabbitMq`] is what a bus or the relay is given; it makes one connection per publisher and per consumer, so that a
//! broker that blocks publishers (memory or disk alarm) never stops the consumers.
//!
//! What it promises beyond the common contract: messages are durable, first deliveries are known as such, and a
//! message that no queue takes is a permanent failure (`mandatory` and publisher confirms are always on). A nacked message
//! waits in a queue of its own and holds up nobody, see `waiting`. What it does not do: a message that comes again may arrive
//! after later ones of its key, and it declares nothing unless [`Transport::declare`] is called, except those queues.
//!
//! Reconnecting is ours: a new connection per generation, never the client's own recovery.
//!
//! lapin logs returned messages at level `warn` with their bodies. Filter its target `lapin::returned_messages` when
//! bodies must not reach a log.

mod connection;
mod consumer;
mod exchanges;
mod flights;
mod limits;
mod pace;
mod publisher;
mod settings;
mod shard;
mod tls;
mod topology;
mod waiting;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;

use super::{Consumer, Inbox, Promises, Publisher, Transport, TransportError};
use crate::Destination;
use connection::Broker;

pub use settings::Settings;

/// The RabbitMQ transport.
///
/// # Examples
/// ```no_run
/// # async fn f() -> Result<(), barid::transport::TransportError> {
/// use barid::transport::rabbitmq::{RabbitMq, Settings};
/// let plain = RabbitMq::connect("amqp://shop:secret@localhost:5672/%2f").await?;
/// let tuned = RabbitMq::new(Settings {
///     window_rows_max: 2_000,
///     ..Settings::new("amqp://shop:secret@localhost:5672/%2f")
/// })?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RabbitMq {
    broker: Arc<Broker>,
}

impl RabbitMq {
    /// A transport with default settings, after checking that the broker lets us in.
    ///
    /// # Errors
    /// [`TransportError::Misconfigured`] for a URL that cannot be used, [`TransportError::Unreachable`] when nobody
    /// answers, [`TransportError::Refused`] for wrong credentials or a virtual host that is closed to them.
    pub async fn connect(url: &str) -> Result<Self, TransportError> {
        let transport = Self::new(Settings::new(url))?;
        transport.broker.check().await?;
        Ok(transport)
    }

    /// A transport with these settings. Connects to nothing yet.
    ///
    /// # Errors
    /// [`TransportError::Misconfigured`] for a URL or a setting that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, TransportError> {
        Ok(Self { broker: Arc::new(Broker::new(settings)?) })
    }
}

#[async_trait]
impl Transport for RabbitMq {
    fn promises(&self) -> Promises {
        Promises {
            durable: true,
            knows_repeats: true,
            delays: true,
            orders_keys: false,
            refuses_unknown_queues: true,
        }
    }

    async fn declare(&self, inbox: &Inbox) -> Result<(), TransportError> {
        topology::declare(&self.broker, inbox).await
    }

    async fn consumer(&self, inbox: &Inbox) -> Result<Box<dyn Consumer>, TransportError> {
        Ok(Box::new(consumer::RabbitConsumer::open(self.broker.clone(), inbox.clone()).await?))
    }

    async fn unsubscribe(&self, queue: &str, topic: &str) -> Result<(), TransportError> {
        topology::unbind(&self.broker, queue, topic).await
    }

    async fn missing(&self, destinations: &[Destination]) -> Result<Vec<String>, TransportError> {
        topology::missing(&self.broker, destinations).await
    }

    async fn make(&self, destinations: &[Destination]) -> Result<(), TransportError> {
        topology::make(&self.broker, destinations).await
    }

    async fn publisher(&self) -> Result<Box<dyn Publisher>, TransportError> {
        Ok(Box::new(publisher::RabbitPublisher::open(self.broker.clone()).await?))
    }

    async fn remove(&self, inbox: &Inbox) -> Result<(), TransportError> {
        topology::remove(&self.broker, inbox).await
    }
}
