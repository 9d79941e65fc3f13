//! A Kafka topic as a tape. The client's calls block, hence the threads.

use std::time::{Duration, Instant};

use barid::headers;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
};
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{BOUND, Copy, parsed};
use crate::{eventually, names, servers};

/// Where each partition ends.
pub(super) async fn ends_of(topic: &str) -> Vec<i64> {
    let topic = topic.to_owned();
    let look = spawn_blocking(move || ends(&consumer(&names::unique("tape")), &topic));
    look.await.expect("the look at the partitions does not panic")
}

/// Waits until the group has committed the ends of all partitions.
pub(super) async fn handled_by(topic: &str, group: &str) {
    eventually(BOUND, "the bus handled all of the topic", || {
        let (topic, group) = (topic.to_owned(), group.to_owned());
        async move { spawn_blocking(move || handled(&topic, &group)).await.expect("the look does not panic") }
    })
    .await;
}

/// The topic up to the last mark.
pub(super) async fn read<E: DeserializeOwned + Send + 'static>(
    topic: String,
    marks: Vec<Vec<i64>>,
) -> Vec<Copy<E>> {
    spawn_blocking(move || read_topic(&topic, &marks)).await.expect("the topic can be read")
}

fn read_topic<E: DeserializeOwned>(topic: &str, marks: &[Vec<i64>]) -> Vec<Copy<E>> {
    let consumer = consumer(&names::unique("tape"));
    let ends = marks.last().expect("the end was marked");
    let mut all = TopicPartitionList::new();
    for partition in 0..ends.len() {
        all.add_partition_offset(topic, number(partition), Offset::Beginning).expect("a partition");
    }
    consumer.assign(&all).expect("Kafka assigns the partitions");
    let total = usize::try_from(ends.iter().sum::<i64>()).expect("offsets are not negative");
    let (mut copies, began) = (Vec::new(), Instant::now());
    while copies.len() < total {
        assert!(began.elapsed() < BOUND, "read {} of {total} messages of {topic}", copies.len());
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        let message = message.expect("Kafka gives out a message");
        let partition = usize::try_from(message.partition()).expect("a partition");
        copies.push(Copy {
            id: id_of(&message),
            event: parsed(message.payload().unwrap_or_default()),
            marks: marks.iter().filter(|ends| ends[partition] <= message.offset()).count(),
        });
    }
    copies
}

fn id_of(message: &BorrowedMessage<'_>) -> Uuid {
    let all = message.headers().expect("a message has headers");
    let id = all.iter().find(|header| header.key == headers::ID).and_then(|header| header.value);
    let id = std::str::from_utf8(id.expect("a message has an id")).expect("the id is text");
    id.parse().expect("the id is a UUID")
}

/// A consumer that may look at the group's offsets.
fn consumer(group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers::kafka()).set("group.id", group);
    config.set("enable.auto.commit", "false").create().expect("a consumer of Kafka")
}

fn handled(topic: &str, group: &str) -> bool {
    let consumer = consumer(group);
    let mut asked = TopicPartitionList::new();
    let ends = ends(&consumer, topic);
    for partition in 0..ends.len() {
        asked.add_partition(topic, number(partition));
    }
    let committed = consumer.committed_offsets(asked, BOUND).expect("Kafka says what was committed");
    let offsets = committed.elements();
    let offsets = offsets.iter().map(|element| element.offset().to_raw().unwrap_or(0).max(0));
    offsets.eq(ends)
}

fn ends(consumer: &BaseConsumer, topic: &str) -> Vec<i64> {
    let metadata = consumer.fetch_metadata(Some(topic), BOUND).expect("Kafka describes the topic");
    let partitions = metadata.topics()[0].partitions().len();
    let end = |partition| consumer.fetch_watermarks(topic, number(partition), BOUND).expect("an end").1;
    (0..partitions).map(end).collect()
}

fn number(partition: usize) -> i32 {
    i32::try_from(partition).expect("a partition")
}
