//! Everything that the broker got, in its order, with marks for the moments of the kills.
//!
//! On RabbitMQ a second queue is bound to the topic and nobody reads it until the end; a mark is a confirmed message in it,
//! so what stands behind a mark was not confirmed when the mark was made. On Kafka the topic itself is the tape, and a mark
//! is the end of each partition.

use std::time::{Duration, Instant};

use barid::{Destination, Outgoing, RabbitMq, Sender, Transport, headers, transport::Inbox};
use barid_tests::{eventually, names, servers};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{PATIENCE, arrivals::Arrivals, orders::OrderPlaced};

pub(crate) const MARK: &str = "tape.mark";
const BOUND: Duration = Duration::from_secs(60);

/// One copy of a message.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub(crate) id: Uuid,
    pub(crate) event: OrderPlaced,
    /// How many marks had been made when the broker got it.
    pub(crate) marks: usize,
}

pub(crate) enum Tape {
    RabbitMq { broker: RabbitMq, sender: Sender, inbox: Inbox, topic: String },
    Kafka { topic: String, marks: Mutex<Vec<Vec<i64>>> },
}

impl Tape {
    pub(crate) async fn rabbitmq(broker: &RabbitMq, topic: &str) -> Self {
        let mut inbox = Inbox::new(names::unique("tape")).topic(topic);
        inbox.prefetch = 1_000;
        broker.declare(&inbox).await.unwrap();
        let sender = Sender::connect(broker, "tape").await.unwrap();
        Self::RabbitMq { broker: broker.clone(), sender, inbox, topic: topic.to_owned() }
    }

    pub(crate) fn kafka(topic: &str) -> Self {
        Self::Kafka { topic: topic.to_owned(), marks: Mutex::default() }
    }

    /// Everything that the broker has confirmed by now stands before this mark.
    pub(crate) async fn mark(&self) {
        match self {
            Self::RabbitMq { sender, inbox, .. } => {
                let queue = Destination::queue(inbox.queue.as_str()).unwrap();
                sender.send(Outgoing::raw(MARK, None).to(queue)).await.unwrap();
            }
            Self::Kafka { topic, marks } => {
                let topic = topic.clone();
                let ends =
                    tokio::task::spawn_blocking(move || ends(&kafka_consumer(), &topic)).await.unwrap();
                marks.lock().await.push(ends);
            }
        }
    }

    /// Waits until `bus` has received everything that the topic has for it.
    ///
    /// The copies on the tape cannot tell: RabbitMQ may put a message whose publisher dies before the confirm into one of
    /// two bound queues only. It is published again, so nothing is lost, but the queues differ by a copy.
    pub(crate) async fn received_by(&self, bus: &str, arrivals: &Arrivals) {
        match self {
            Self::RabbitMq { sender, topic, .. } => {
                let topic = Destination::topic(topic.as_str()).unwrap();
                sender.send(Outgoing::raw(MARK, None).to(topic)).await.unwrap();
                eventually(PATIENCE, "the bus received the last mark", || async { arrivals.marked() }).await;
            }
            Self::Kafka { topic, .. } => {
                let look = || {
                    let (topic, group) = (topic.clone(), bus.to_owned());
                    tokio::task::spawn_blocking(move || handled(&topic, &group))
                };
                eventually(PATIENCE, "the bus handled all of the topic", || async { look().await.unwrap() })
                    .await;
            }
        }
    }

    /// All of it, up to the mark that [`Tape::received_by`] made where the tape is a queue.
    pub(crate) async fn read(self) -> Vec<Copy> {
        if matches!(self, Self::Kafka { .. }) {
            self.mark().await;
        }
        match self {
            Self::RabbitMq { broker, inbox, .. } => read_queue(&broker, &inbox).await,
            Self::Kafka { topic, marks } => {
                let marks = marks.into_inner();
                tokio::task::spawn_blocking(move || read_topic(&topic, &marks)).await.unwrap()
            }
        }
    }
}

/// Reads up to the last mark; there are as many as kills, and the one of `Tape::received_by`.
async fn read_queue(broker: &RabbitMq, inbox: &Inbox) -> Vec<Copy> {
    let mut consumer = broker.consumer(inbox).await.unwrap();
    let (mut copies, mut marks) = (Vec::new(), 0);
    while marks <= super::KILLS {
        let delivery = tokio::time::timeout(BOUND, consumer.receive()).await.expect("the tape has an end");
        let delivery = delivery.unwrap();
        if delivery.headers.get(headers::TYPE) == Some(MARK) {
            marks += 1;
        } else {
            let id = delivery.headers.get(headers::ID).unwrap().parse().unwrap();
            copies.push(Copy { id, event: serde_json::from_slice(&delivery.body).unwrap(), marks });
        }
        delivery.settlement.ack().await.unwrap();
    }
    consumer.close().await.unwrap();
    copies
}

fn read_topic(topic: &str, marks: &[Vec<i64>]) -> Vec<Copy> {
    let consumer = kafka_consumer();
    let ends = marks.last().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..ends.len() {
        all.add_partition_offset(topic, i32::try_from(partition).unwrap(), Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let total = usize::try_from(ends.iter().sum::<i64>()).unwrap();
    let (mut copies, began) = (Vec::new(), Instant::now());
    while copies.len() < total {
        assert!(began.elapsed() < BOUND, "read {} of {total} messages of {topic}", copies.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.unwrap();
        let partition = usize::try_from(message.partition()).unwrap();
        copies.push(Copy {
            id: id_of(&message),
            event: serde_json::from_slice(message.payload().unwrap()).unwrap(),
            marks: marks.iter().filter(|ends| ends[partition] <= message.offset()).count(),
        });
    }
    copies
}

fn id_of(message: &BorrowedMessage<'_>) -> Uuid {
    let all = message.headers().unwrap();
    let id = all.iter().find(|header| header.key == headers::ID).and_then(|header| header.value);
    std::str::from_utf8(id.unwrap()).unwrap().parse().unwrap()
}

fn kafka_consumer() -> BaseConsumer {
    kafka_member(&names::unique("tape"))
}

/// A consumer that may look at the group's offsets.
fn kafka_member(group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers::kafka()).set("group.id", group);
    config.set("enable.auto.commit", "false").create().unwrap()
}

/// Whether the group has committed the ends of all partitions.
fn handled(topic: &str, group: &str) -> bool {
    let consumer = kafka_member(group);
    let mut asked = TopicPartitionList::new();
    let ends = ends(&consumer, topic);
    for partition in 0..ends.len() {
        asked.add_partition(topic, i32::try_from(partition).unwrap());
    }
    let committed = consumer.committed_offsets(asked, BOUND).unwrap();
    let offsets = committed.elements();
    let offsets = offsets.iter().map(|element| element.offset().to_raw().unwrap_or(0).max(0));
    offsets.eq(ends)
}

/// Where each partition ends.
fn ends(consumer: &BaseConsumer, topic: &str) -> Vec<i64> {
    let metadata = consumer.fetch_metadata(Some(topic), BOUND).unwrap();
    let partitions = metadata.topics()[0].partitions().len();
    let end = |partition| consumer.fetch_watermarks(topic, partition, BOUND).unwrap().1;
    (0..i32::try_from(partitions).unwrap()).map(end).collect()
}
