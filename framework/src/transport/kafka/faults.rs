//! Tests with librdkafka's own mock cluster: errors that a real broker gives only under rare conditions.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::{
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr as Reply},
};
use uuid::Uuid;

use super::{Kafka, Settings, publisher::KafkaPublisher};
use crate::{
    Destination, Headers, headers,
    transport::{Full, Inbox, Outcome, OutgoingRow, Publisher, Repeat, Token, Transport},
};

mod transactions;

const BOUND: Duration = Duration::from_secs(30);

struct Cluster {
    mock: MockCluster<'static, DefaultProducerContext>,
    settings: Settings,
}

fn cluster() -> Cluster {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("orders", 2, 1).unwrap();
    let settings = Settings {
        message_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        unknown_topic_wait: Duration::from_millis(200),
        close_timeout: Duration::from_millis(500),
        ..Settings::new(mock.bootstrap_servers())
    };
    Cluster { mock, settings }
}

impl Cluster {
    fn kafka(&self) -> Kafka {
        Kafka::new(self.settings.clone()).unwrap()
    }

    async fn publisher(&self) -> Box<dyn Publisher> {
        self.kafka().publisher().await.unwrap()
    }
}

pub(super) fn row(topic: &str) -> OutgoingRow {
    OutgoingRow {
        seq: 0,
        id: Uuid::now_v7(),
        destination: Destination::topic(topic).unwrap(),
        aggregatetype: "order".to_owned(),
        aggregateid: Some("k".to_owned()),
        name: "orders.placed".to_owned(),
        payload: Some(Bytes::from_static(b"body")),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    }
}

/// Publishes one row and returns its outcome.
async fn publish(publisher: &mut dyn Publisher, topic: &str) -> Outcome {
    publisher.submit(&row(topic), Token(1)).unwrap();
    let settled = tokio::time::timeout(BOUND, publisher.settled()).await.expect("it settles");
    assert_eq!(settled.len(), 1, "{settled:?}");
    settled.into_iter().next().unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_retries_is_confirmed_in_the_end() {
    let cluster = cluster();
    let mut publisher = cluster.publisher().await;
    let twice =
        [Reply::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, Reply::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION];
    cluster.mock.request_errors(RDKafkaApiKey::Produce, &twice);
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_refuses_is_permanent_and_the_next_row_passes() {
    let cluster = cluster();
    let mut publisher = cluster.publisher().await;
    for (error, remedy) in [
        (Reply::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, "max.message.bytes"),
        (Reply::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, "grant WRITE"),
        (Reply::RD_KAFKA_RESP_ERR_INVALID_RECORD, "orders"),
    ] {
        cluster.mock.request_errors(RDKafkaApiKey::Produce, &[error]);
        let outcome = publish(publisher.as_mut(), "orders").await;
        assert!(
            matches!(&outcome, Outcome::Permanent(text) if text.contains(remedy)),
            "{error:?}: {outcome:?}"
        );
        assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed, "after {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_may_not_be_written_is_permanent_before_anything_is_sent() {
    let cluster = cluster();
    let mut publisher = cluster.publisher().await;
    for error in [
        Reply::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        Reply::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        Reply::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
    ] {
        cluster.mock.topic_error("orders", error).unwrap();
        let outcome = publish(publisher.as_mut(), "orders").await;
        assert!(matches!(outcome, Outcome::Permanent(_)), "{error:?}: {outcome:?}");
    }
    cluster.mock.topic_error("orders", Reply::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
}

/// The outcomes of so many rows, in the order in which they came.
async fn outcomes(publisher: &mut dyn Publisher, rows: usize) -> Vec<(u64, Outcome)> {
    let mut settled = Vec::new();
    while settled.len() < rows {
        let some = tokio::time::timeout(BOUND, publisher.settled()).await.expect("every row settles");
        settled.extend(some.into_iter().map(|(token, outcome)| (token.0, outcome)));
    }
    settled
}

/// On one thread, so that the publisher's caretaker comes after what this does.
#[tokio::test]
async fn what_is_given_up_is_unknown_and_a_new_producer_goes_on() {
    let cluster = cluster();
    let mut publisher = KafkaPublisher::start(&Arc::new(cluster.settings.clone())).unwrap();
    assert_eq!(publish(&mut publisher, "orders").await, Outcome::Confirmed);
    cluster.mock.broker_round_trip_time(1, Duration::from_millis(500)).unwrap();
    for token in 0..10 {
        publisher.submit(&row("orders"), Token(token)).unwrap();
    }
    publisher.give_up(); // does what a fatal error of librdkafka does
    // Whoever submits this cannot know yet what became of the rows before it, which are of the same key.
    publisher.submit(&row("orders"), Token(10)).unwrap();
    for (token, outcome) in outcomes(&mut publisher, 11).await {
        let expected = match token {
            10 => matches!(outcome, Outcome::Transient(_)),
            _ => matches!(outcome, Outcome::Unknown(_)),
        };
        assert!(expected, "row {token}: {outcome:?}");
    }
    cluster.mock.broker_round_trip_time(1, Duration::ZERO).unwrap();
    assert_eq!(publish(&mut publisher, "orders").await, Outcome::Confirmed);
}

/// What the broker refuses in a way that it does not repeat is in doubt, and so is all that was sent behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_client_gives_up_stops_those_behind_it() {
    let cluster = cluster();
    let mut publisher = cluster.publisher().await;
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
    cluster.mock.request_errors(RDKafkaApiKey::Produce, &[Reply::RD_KAFKA_RESP_ERR_UNKNOWN]);
    let outcome = publish(publisher.as_mut(), "orders").await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(publish_at_last(publisher.as_mut()).await, Outcome::Confirmed);
}

/// Publishes one row, again for as long as it is turned away because the producer is being replaced.
async fn publish_at_last(publisher: &mut dyn Publisher) -> Outcome {
    loop {
        match publish(publisher, "orders").await {
            Outcome::Transient(why) if why.contains("not sent") => {}
            outcome => return outcome,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_that_the_broker_does_not_accept_costs_no_row() {
    let cluster = cluster();
    let mut publisher = cluster.publisher().await;
    for error in [
        Reply::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        Reply::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
    ] {
        cluster.mock.request_errors(RDKafkaApiKey::Produce, &[error]);
        let outcome = publish(publisher.as_mut(), "orders").await;
        assert!(matches!(outcome, Outcome::Unknown(_) | Outcome::Confirmed), "{error:?}: {outcome:?}");
        assert_eq!(publish_at_last(publisher.as_mut()).await, Outcome::Confirmed, "after {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_rows_settle_and_with_it_they_pass_again() {
    let mut cluster = cluster();
    cluster.settings.message_timeout = Duration::from_secs(2);
    cluster.settings.connect_timeout = Duration::from_secs(2);
    let mut publisher = cluster.publisher().await;
    while publish(publisher.as_mut(), "orders").await != Outcome::Confirmed {}
    cluster.mock.broker_down(1).unwrap();
    // The first may have been on its way; what follows the loss was certainly not sent.
    loop {
        match publish(publisher.as_mut(), "orders").await {
            Outcome::Unknown(_) => {}
            Outcome::Transient(text) if text.contains("cannot reach") => break,
            Outcome::Transient(text) => assert!(text.contains("not sent"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    cluster.mock.broker_up(1).unwrap();
    loop {
        match publish(publisher.as_mut(), "orders").await {
            Outcome::Confirmed => break,
            Outcome::Transient(_) | Outcome::Unknown(_) => {}
            other @ Outcome::Permanent(_) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_is_bounded_and_settles_every_row_once() {
    let cluster = cluster();
    let mut publisher = cluster.publisher().await;
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
    cluster.mock.broker_round_trip_time(1, Duration::from_secs(20)).unwrap();
    for token in 0..100 {
        let topic = if token % 2 == 0 { "orders" } else { "never-asked-for" };
        publisher.submit(&row(topic), Token(token)).unwrap();
    }
    let mut outcomes = tokio::time::timeout(BOUND, publisher.close()).await.expect("closing is bounded");
    outcomes.sort_by_key(|(token, _)| *token);
    let tokens: Vec<u64> = outcomes.iter().map(|(token, _)| token.0).collect();
    assert_eq!(tokens, (0..100).collect::<Vec<_>>());
    assert!(
        outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Unknown(_) | Outcome::Transient(_)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_window_is_full_until_outcomes_are_taken_and_waiting_can_be_cancelled() {
    let mut cluster = cluster();
    cluster.settings.window_rows_max = 3;
    let mut publisher = cluster.publisher().await;
    for token in 0..3 {
        publisher.submit(&row("orders"), Token(token)).unwrap();
    }
    assert_eq!(publisher.submit(&row("orders"), Token(3)).unwrap_err(), Full);
    let mut settled = Vec::new();
    while settled.len() < 3 {
        // Cancelled again and again in the middle; nothing is lost.
        if let Ok(mut some) = tokio::time::timeout(Duration::from_micros(500), publisher.settled()).await {
            settled.append(&mut some);
        }
    }
    assert!(settled.iter().all(|(_, outcome)| *outcome == Outcome::Confirmed), "{settled:?}");
    publisher.submit(&row("orders"), Token(3)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_commit_is_made_again() {
    let mut cluster = cluster();
    cluster.settings.close_timeout = BOUND;
    let inbox = Inbox::new("orders");
    let mut publisher = cluster.publisher().await;
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
    let mut consumer = cluster.kafka().consumer(&inbox).await.unwrap();
    let delivery = consumer.receive().await.unwrap();
    let first = delivery.headers.get(headers::ID).unwrap().to_owned();
    assert_eq!(delivery.repeat, Repeat::Possible, "it existed when the partition was assigned");
    let refused = [
        Reply::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE,
        Reply::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    ];
    cluster.mock.request_errors(RDKafkaApiKey::OffsetCommit, &refused);
    delivery.settlement.ack().await.unwrap();
    consumer.close().await.unwrap();
    let mut consumer = cluster.kafka().consumer(&inbox).await.unwrap();
    assert_eq!(publish(publisher.as_mut(), "orders").await, Outcome::Confirmed);
    let next = tokio::time::timeout(BOUND, consumer.receive()).await.expect("the new message").unwrap();
    assert_ne!(next.headers.get(headers::ID), Some(first.as_str()));
}
