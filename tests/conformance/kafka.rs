//! The Kafka transport against a real cluster: `BARID_TEST_KAFKA`, started by `tests/run`.
//!
//! Every test makes its own topics and groups. Nothing waits for a time to pass: each wait ends with the event that it
//! waits for, or fails at a bound.

#![allow(clippy::unwrap_used)] // an unwrap that fails is a test that fails

#[path = "kafka/receiving.rs"]
mod receiving;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use barid::{
    Destination, Headers, headers,
    transport::{
        Consumer, Delivery, Inbox, Outcome, OutgoingRow, Publisher, Token, Transport, TransportError,
        kafka::{Kafka, Settings},
    },
};
use bytes::Bytes;
use uuid::Uuid;

const BOUND: Duration = Duration::from_secs(60);

fn brokers() -> String {
    std::env::var("BARID_TEST_KAFKA").expect("BARID_TEST_KAFKA is not set: run this through tests/run")
}

fn kafka() -> Kafka {
    Kafka::new(Settings::new(brokers())).unwrap()
}

fn name(what: &str) -> String {
    format!("barid-{what}-{}", Uuid::now_v7().simple())
}

async fn declared(what: &str) -> Inbox {
    let inbox = Inbox::new(name(what));
    kafka().declare(&inbox).await.unwrap();
    inbox
}

fn row(topic: &str, key: Option<&str>, body: Option<&[u8]>) -> OutgoingRow {
    OutgoingRow {
        seq: 0,
        id: Uuid::now_v7(),
        destination: Destination::topic(topic).unwrap(),
        aggregatetype: "order".to_owned(),
        aggregateid: key.map(str::to_owned),
        name: "orders.placed".to_owned(),
        payload: body.map(Bytes::copy_from_slice),
        headers: Headers::new(),
        tracingspancontext: None,
        wire: None,
    }
}

/// Publishes all rows, whatever the window, and returns every outcome by the row's place.
async fn publish(publisher: &mut dyn Publisher, rows: &[OutgoingRow]) -> BTreeMap<u64, Outcome> {
    let mut outcomes = BTreeMap::new();
    let all = async {
        for (token, row) in (0..).zip(rows) {
            while publisher.submit(row, Token(token)).is_err() {
                collect(&mut outcomes, publisher.settled().await);
            }
        }
        while outcomes.len() < rows.len() {
            collect(&mut outcomes, publisher.settled().await);
        }
    };
    tokio::time::timeout(BOUND, all).await.expect("every row settles");
    outcomes
}

fn collect(outcomes: &mut BTreeMap<u64, Outcome>, more: Vec<(Token, Outcome)>) {
    for (Token(token), outcome) in more {
        assert!(outcomes.insert(token, outcome).is_none(), "row {token} settled twice");
    }
}

async fn publish_confirmed(rows: &[OutgoingRow]) {
    let mut publisher = kafka().publisher().await.unwrap();
    let outcomes = publish(publisher.as_mut(), rows).await;
    assert!(outcomes.values().all(|outcome| *outcome == Outcome::Confirmed), "{outcomes:?}");
    assert!(publisher.close().await.is_empty());
}

async fn next(consumer: &mut dyn Consumer) -> Delivery {
    tokio::time::timeout(BOUND, consumer.receive()).await.expect("a delivery in time").unwrap()
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_keys_and_tombstones_come_back_as_they_went() {
    let inbox = declared("roundtrip").await;
    let mut with_body = row(&inbox.queue, Some("o-1"), Some(b"{\"sku\":\"b\xc3\xbccher\"}"));
    with_body.headers.set(headers::CORRELATION_ID, "c-1");
    with_body.headers.set("tenant", "b\u{fc}cher");
    with_body.tracingspancontext = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let tombstone = row(&inbox.queue, Some("o-1"), None);
    publish_confirmed(&[with_body.clone(), tombstone.clone()]).await;

    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    for sent in [with_body, tombstone] {
        let delivery = next(consumer.as_mut()).await;
        assert_eq!(delivery.headers, sent.wire_headers());
        assert_eq!(delivery.body, sent.payload.unwrap_or_default());
        assert_eq!(delivery.source, inbox.queue);
        delivery.settlement.ack().await.unwrap();
    }
    consumer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_also_receives_its_topics() {
    let topic = name("events");
    let inbox = Inbox::new(name("queue")).topic(&topic);
    kafka().declare(&inbox).await.unwrap();
    kafka().declare(&inbox).await.unwrap();
    publish_confirmed(&[row(&topic, None, Some(b"event")), row(&inbox.queue, None, Some(b"command"))]).await;
    let mut consumer = kafka().consumer(&inbox).await.unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let delivery = next(consumer.as_mut()).await;
        seen.insert((delivery.source.clone(), body(&delivery)));
        delivery.settlement.ack().await.unwrap();
    }
    let expected = [(topic, "event".to_owned()), (inbox.queue, "command".to_owned())];
    assert_eq!(seen, BTreeSet::from(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_topic_is_permanent_and_its_neighbours_are_confirmed() {
    let inbox = declared("known").await;
    let unknown = name("unknown");
    let rows: Vec<_> = (0..100)
        .map(|number| {
            let topic = if number % 10 == 3 { unknown.as_str() } else { inbox.queue.as_str() };
            row(topic, Some(&format!("k-{}", number % 4)), Some(b"x"))
        })
        .collect();
    let mut publisher = kafka().publisher().await.unwrap();
    let started = Instant::now();
    let outcomes = publish(publisher.as_mut(), &rows).await;
    assert!(started.elapsed() < Duration::from_secs(10), "it does not wait for the message timeout");
    for (token, outcome) in outcomes {
        match outcome {
            Outcome::Permanent(text) if token % 10 == 3 => assert!(text.contains(&unknown), "{text}"),
            Outcome::Confirmed if token % 10 != 3 => {}
            // Every row of the unknown topic has an odd key: what comes behind one of them may not pass it.
            Outcome::Transient(text) if token % 10 != 3 && token % 2 == 1 => {
                assert!(text.contains("a topic that cannot be written"), "{text}");
            }
            other => panic!("row {token}: {other:?}"),
        }
    }
    // Once the topic exists, the same publisher finds it.
    kafka().declare(&Inbox::new(&unknown)).await.unwrap();
    let outcomes = publish(publisher.as_mut(), &[row(&unknown, None, Some(b"x"))]).await;
    assert_eq!(outcomes[&0], Outcome::Confirmed);
    assert!(publisher.close().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_large_is_permanent_whoever_notices() {
    let inbox = declared("large").await;
    let (small, large) = (vec![b'x'; 100], vec![b'x'; 2_000_000]);
    let rows: Vec<_> =
        [&small, &large, &small].into_iter().map(|body| row(&inbox.queue, Some("k"), Some(body))).collect();
    let noticed_by_broker = Settings {
        message_bytes_max: 4_000_000,
        ..Settings::new(brokers()).property("compression.type", "none")
    };
    for settings in [Settings::new(brokers()), noticed_by_broker] {
        let mut publisher = Kafka::new(settings).unwrap().publisher().await.unwrap();
        let outcomes = publish(publisher.as_mut(), &rows).await;
        for (outcome, fits) in outcomes.into_values().zip([true, false, true]) {
            match outcome {
                Outcome::Confirmed if fits => {}
                Outcome::Permanent(text) if !fits => assert!(text.contains("max.message.bytes"), "{text}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(publisher.close().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_addresses_credentials_and_topics_are_told_apart() {
    let quick =
        |brokers: &str| Settings { connect_timeout: Duration::from_secs(2), ..Settings::new(brokers) };
    let started = Instant::now();
    let nobody = Kafka::new(quick("127.0.0.1:1")).unwrap();
    let error = nobody.publisher().await.err().unwrap();
    assert!(
        matches!(error, TransportError::Unreachable { .. }) && error.to_string().contains("127.0.0.1:1"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(10));

    // The listener speaks no SASL, which is one way to be refused; the password is in no message.
    let secret = quick(&brokers())
        .property("security.protocol", "SASL_PLAINTEXT")
        .property("sasl.mechanism", "PLAIN")
        .property("sasl.username", "barid")
        .property("sasl.password", "hunter2");
    let error = Kafka::new(secret).unwrap().publisher().await.err().unwrap();
    assert!(matches!(error, TransportError::Refused { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));

    let undeclared = Inbox::new(name("undeclared"));
    let error = kafka().consumer(&undeclared).await.err().unwrap();
    assert!(matches!(error, TransportError::Misconfigured { .. }), "{error}");
    assert!(error.to_string().contains(&undeclared.queue), "{error}");
}
