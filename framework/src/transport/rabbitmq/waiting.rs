//! Makes a message that is to come again later wait, outside of everybody's way.
//!
//! RabbitMQ cannot delay what it requeues. So the message moves to a queue without consumers, `QUEUE.wait-8s`, with the wait as
//! its expiration; when that has passed the broker dead-letters it back to its own queue. The received message is acknowledged
//! when the broker has confirmed the waiting one. It takes no place in the prefetch window, survives restarts and does not count
//! as a delivery against the limit of a quorum queue.
//!
//! Expired messages leave a queue only from its front, so there is one queue for each power of two seconds: a message waits for
//! as long as it should, and for up to twice as long (at least a second) behind others. A few such queues are left for each
//! queue; they may be deleted when they are empty.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use tokio::sync::Mutex;

use super::{connection::Broker, wire};
use crate::transport::TransportError;

/// A wait that is not worth two round trips to the broker and a write to its disk.
const WAIT_MIN: Duration = Duration::from_millis(10);

/// The longest wait: about 18 hours.
const WAIT_MAX: Duration = Duration::from_secs(1 << 16);

/// Where the messages of one queue wait. Connects when the first of them does.
pub(super) struct WaitingRoom {
    broker: Arc<Broker>,
    queue: String,
    link: Mutex<Option<Link>>,
}

/// A connection of its own: the broker may block one that publishes, and the consumer's must go on.
struct Link {
    _connection: Connection,
    channel: Channel,
    declared: HashSet<u64>,
}

impl WaitingRoom {
    pub(super) fn new(broker: Arc<Broker>, queue: &str) -> Arc<Self> {
        Arc::new(Self { broker, queue: queue.to_owned(), link: Mutex::new(None) })
    }

    /// Puts a message into the room and returns `true` once the broker has confirmed it. `false`: it need not wait.
    pub(super) async fn take(
        &self,
        properties: &BasicProperties,
        body: &Bytes,
        wait: Duration,
    ) -> Result<bool, TransportError> {
        if wait < WAIT_MIN {
            return Ok(false);
        }
        let wait = wait.min(WAIT_MAX);
        let properties = wire::waiting(properties, wait);
        let mut link = self.link.lock().await;
        let mut open = match link.take() {
            Some(open) if open.channel.status().connected() => open,
            _ => self.open().await?,
        };
        // What failed is not put back: its channel may be closed.
        self.put(&mut open, level_s(wait), body, properties).await?;
        *link = Some(open);
        Ok(true)
    }

    async fn open(&self) -> Result<Link, TransportError> {
        let connection = self.broker.connect(&format!("waiting room of {}", self.queue)).await?;
        let channel = self.broker.publishing_channel(&connection).await?;
        Ok(Link { _connection: connection, channel, declared: HashSet::new() })
    }

    async fn put(
        &self,
        link: &mut Link,
        level_s: u64,
        body: &Bytes,
        properties: BasicProperties,
    ) -> Result<(), TransportError> {
        let name = format!("{}.wait-{level_s}s", self.queue);
        let place = ShortString::try_new(name.as_str()).map_err(|error| TransportError::Misconfigured {
            what: format!("queue {name:?}"),
            cause: error.to_string(),
            remedy: "give the bus a shorter queue name".to_owned(),
        })?;
        if !link.declared.contains(&level_s) {
            let options = QueueDeclareOptions {
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                nowait: false,
            };
            let arguments = arguments(&self.queue, self.broker.settings.quorum);
            let declared = link.channel.queue_declare(place.clone(), options, arguments);
            self.broker.bounded("queue.declare", declared).await?;
            link.declared.insert(level_s);
        }
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let channel = link.channel.clone();
        let confirmed = async {
            channel.basic_publish(ShortString::default(), place, options, body, properties).await?.await
        };
        match self.broker.bounded("basic.publish", confirmed).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(self.broker.lost(format!("queue {name:?} is gone"))),
            _ => Err(self.broker.lost(format!("queue {name:?} did not take the message"))),
        }
    }
}

/// The queue for a wait: the next power of two, in seconds.
fn level_s(wait: Duration) -> u64 {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    seconds.max(1).next_power_of_two()
}

/// The arguments of a queue whose messages go back to `queue` when they expire.
fn arguments(queue: &str, quorum: bool) -> FieldTable {
    let mut pairs = vec![
        ("x-queue-type", if quorum { "quorum" } else { "classic" }),
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", queue),
    ];
    if quorum {
        // Without these two a message could be lost on its way back, when its queue has no leader at that moment.
        pairs.push(("x-dead-letter-strategy", "at-least-once"));
        pairs.push(("x-overflow", "reject-publish"));
    }
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_the_next_power_of_two() {
        for (millis, level) in
            [(10, 1), (1_000, 1), (1_001, 2), (2_000, 2), (3_000, 4), (30_000, 32), (65_536_000, 65_536)]
        {
            assert_eq!(level_s(Duration::from_millis(millis)), level, "{millis} ms");
        }
    }
}
