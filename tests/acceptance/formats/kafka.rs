//! What a Kafka topic holds, as bytes.

use std::time::{Duration, Instant};

use barid_tests::{names, servers};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};

use crate::stage::PATIENCE;

/// One record. Two are equal when nothing that a consumer can see differs, offsets and times excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<String>)>,
}

/// The lines of a sink on the Kafka under test.
pub(crate) fn sink() -> String {
    format!("[sink.log]\nkind = \"kafka\"\nbrokers = {:?}\n", servers::kafka())
}

/// Everything in a topic, partition by partition.
pub(crate) async fn records(topic: &str) -> Vec<Record> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || read(&topic)).await.unwrap()
}

fn read(topic: &str) -> Vec<Record> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers::kafka()).set("group.id", names::unique("formats"));
    let consumer: BaseConsumer = config.set("enable.auto.commit", "false").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
    let (mut all, mut total) = (TopicPartitionList::new(), 0);
    for partition in metadata.topics()[0].partitions() {
        all.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        total += consumer.fetch_watermarks(topic, partition.id(), PATIENCE).unwrap().1;
    }
    consumer.assign(&all).unwrap();
    let (mut records, began) = (Vec::new(), Instant::now());
    while records.len() < usize::try_from(total).unwrap() {
        assert!(began.elapsed() < PATIENCE, "read {} of {total} records of {topic}", records.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().into_iter().flat_map(|all| all.iter());
        records.push(Record {
            partition: message.partition(),
            key: message.key().map(text),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), header.value.map(text))).collect(),
        });
    }
    records.sort_by_key(|record| record.partition);
    records
}
