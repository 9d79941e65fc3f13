//! Names that nobody else uses, and Kafka topics under such names.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use uuid::Uuid;

use crate::{eventually, servers};

const KAFKA_TIMEOUT: Duration = Duration::from_secs(20);

/// A name for a queue, an exchange, a topic, a consumer group or a bus: `barid-test-<what>-<32 hex digits>`.
#[must_use]
pub fn unique(what: &str) -> String {
    format!("barid-test-{what}-{}", Uuid::now_v7().simple())
}

/// Creates a topic of the Kafka under test, and returns its name once every partition has a leader.
///
/// # Panics
/// When Kafka refuses, or is not done within 20 s.
pub async fn kafka_topic(what: &str, partitions: i32) -> String {
    let topic = unique(what);
    kafka_topic_called(&topic, partitions).await;
    topic
}

/// The same under a name that the test has chosen.
///
/// # Panics
/// As [`kafka_topic`].
pub async fn kafka_topic_called(topic: &str, partitions: i32) {
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let answers = admin().create_topics([&new], &options()).await.expect("Kafka answers CreateTopics");
    for answer in answers {
        answer.unwrap_or_else(|(topic, code)| panic!("Kafka did not create topic {topic}: {code}"));
    }
    eventually(KAFKA_TIMEOUT, &format!("topic {topic} has leaders"), || {
        has_leaders(topic.to_owned(), partitions)
    })
    .await;
}

/// Deletes a topic. Only of use on a Kafka that outlives the tests.
///
/// # Panics
/// When Kafka refuses.
pub async fn delete_kafka_topic(topic: &str) {
    let answers = admin().delete_topics(&[topic], &options()).await.expect("Kafka answers DeleteTopics");
    for answer in answers {
        answer.unwrap_or_else(|(topic, code)| panic!("Kafka did not delete topic {topic}: {code}"));
    }
}

fn admin() -> AdminClient<DefaultClientContext> {
    client().create().expect("an admin client of Kafka")
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers::kafka());
    config
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(KAFKA_TIMEOUT)).request_timeout(Some(KAFKA_TIMEOUT))
}

/// Metadata is a blocking call of librdkafka, hence the thread.
async fn has_leaders(topic: String, partitions: i32) -> bool {
    let look = move || {
        let consumer: BaseConsumer = client().create().expect("a consumer of Kafka");
        let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(5)).ok()?;
        let found = metadata.topics().first()?.partitions();
        let led =
            found.iter().filter(|partition| partition.error().is_none() && partition.leader() >= 0).count();
        Some(i32::try_from(led) == Ok(partitions))
    };
    tokio::task::spawn_blocking(look).await.expect("the look at the metadata does not panic") == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_topic_is_there_when_its_name_is_returned() {
        let topic = kafka_topic("names", 3).await;
        assert!(has_leaders(topic.clone(), 3).await);
        delete_kafka_topic(&topic).await;
        eventually(KAFKA_TIMEOUT, "the topic is gone", || async { !has_leaders(topic.clone(), 3).await })
            .await;
    }
}
